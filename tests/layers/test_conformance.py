"""Every case of every layer against every check. A new layer is in here by existing."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE, largest_entry
from jaxbp.core import Shared, Static, map_leaves
from tests.support import conformance
from tests.support.conformance import all_cases, concrete_layers, couples_batch, gradient_pair, measured, setting

pytestmark = pytest.mark.usefixtures("strict")
CASES = pytest.mark.parametrize("case", all_cases(), ids=str)
# Every case's programs are compiled in CI; the fast suite takes the first case of every file.
QUICK = {type(case.layer).__module__: case for case in reversed(all_cases())}.values()
COMPILED = pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(c), marks=() if c in QUICK else pytest.mark.slow) for c in all_cases()]
)
FIRST = {type(case.layer): case for case in reversed(all_cases())}
ONE_EACH = pytest.mark.parametrize("case", list(FIRST.values()), ids=str)  # of every class
NUMERICAL = [
    "gradient",
    "evaluation",
    "linear",
    "zero",
    "adjoint",
    "second_order",
    "adapter",
    "per_example",
    "factors",
    "norms",
]


def excused(case, check):
    return check in dict(case.excused)


@pytest.mark.parametrize("cls", concrete_layers(), ids=lambda cls: cls.__name__)
def test_every_layer_has_cases(cls):
    assert cls.cases(), conformance.RECIPE.format(name=f"{cls.__module__}.{cls.__name__}", short=cls.__name__)
    assert all(isinstance(case.layer, cls) for case in cls.cases())


def test_coverage_fails_for_a_layer_without_cases():
    class Bare(jaxbp.Layer):
        def forward(self, params, x, ctx):
            return x, None

    assert not conformance.abstract(Bare)
    assert not Bare.cases()


@COMPILED
@pytest.mark.parametrize("check", NUMERICAL)
def test_float64(case, check):
    if excused(case, check) or check not in measured(case):
        assert excused(case, check) or couples_batch(case) or isinstance(case.layer, jaxbp.Stack)
        return
    assert worst(*measured(case)[check]) <= FLOAT64_TOLERANCE


@COMPILED
def test_oracle_agrees_with_finite_differences(case):
    assert worst(*measured(case)["differences"]) <= 1e-8  # central differences: about eps^(2/3) = 4e-11 and curvature


@COMPILED
def test_trees(case):
    """grads like params, dx like x or None, state keeps its tree; caches: batch axis first, no parameters in them."""
    params, x, ctx, dy = setting(case)
    layer = case.layer
    _, cache = jax.eval_shape(lambda p, x: layer.forward(p, x, ctx), params, x)
    dx, grads = jax.eval_shape(layer.backward, params, cache, dy)
    spec = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    assert spec(grads) == spec(params)
    floating = all(jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(x))
    assert spec(dx) == spec(x) if floating else dx is None
    assert spec(jax.eval_shape(layer.next_state, ctx.state, cache)) == spec(ctx.state)
    kept = []

    def watch(leaf, params, cache, dy):
        kept.append((leaf, cache))
        return leaf.backward(params, cache, dy)

    jax.eval_shape(lambda p, c, d: layer.sweep(watch, p, c, d), params, cache, dy)
    for leaf, cache in kept:
        arrays = jax.tree.leaves(
            jax.tree.map(lambda n: None if isinstance(n, Shared) else n, cache, is_leaf=lambda n: isinstance(n, Shared))
        )
        assert all(a.shape[:1] == (5,) for a in arrays), f"{leaf}: a cache array has no batch axis"


@COMPILED
def test_params_are_not_in_the_cache(case):
    """Parameters of other sizes leave the cache as it is: nothing in it is a parameter itself."""
    params, x, ctx, _ = setting(case)
    forward = jax.make_jaxpr(lambda p, x: case.layer.forward(p, x, ctx)[1])(params, x)
    inputs = {id(v) for v in forward.jaxpr.invars[: len(jax.tree.leaves(params))]}
    assert not inputs & {id(v) for v in forward.jaxpr.outvars}


@CASES
def test_prints_and_compares(case):
    names = vars(jaxbp) | vars(jaxbp.inits) | {"Node": jaxbp.Node}
    if not excused(case, "repr"):
        assert eval(repr(case.layer), names) == case.layer
    assert hash(case.layer) == hash(dataclasses.replace(case.layer))
    assert map_leaves(case.layer, lambda leaf: leaf) == case.layer


@COMPILED
def test_rows_do_not_see_each_other(case):
    if couples_batch(case):
        return
    params, x, ctx, _ = setting(case)
    f = jax.jit(lambda x: case.layer.forward(params, x, ctx)[0])
    other = jax.tree.map(lambda a: a.at[0].set(a[1]), x)
    for a, b in zip(jax.tree.leaves(f(x)), jax.tree.leaves(f(other)), strict=True):
        np.testing.assert_array_equal(a[1:], b[1:])


@CASES
@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2])
def test_small_batches(case, rows):
    assert worst(*gradient_pair(case, conformance.compiled_both, rows=rows)) <= FLOAT64_TOLERANCE


@CASES
@pytest.mark.slow
@pytest.mark.parametrize("point", [1e4, -1e4, 0.0])
def test_hard_points_are_finite(case, point):
    """Far out and at zero the gradient is finite and JAX's own, kinks included."""
    far = lambda spec: jax.tree.map(lambda s: jnp.full(s.shape, point, s.dtype), spec)
    hand, oracle = gradient_pair(case, draw=far)
    assert np.isfinite(largest_entry(hand))
    assert worst(hand, oracle) <= FLOAT64_TOLERANCE


@CASES
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_lower_precision(case, dtype):
    """At most 4 times the larger of autodiff's own error against float64 and 2 ulp; dtypes as promised."""
    hand, auto = gradient_pair(case, dtype=dtype, params_dtype=jnp.float32)
    lowered = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float64), tree)
    params, x, ctx, dy = setting(case, dtype=dtype, params_dtype=jnp.float32)
    _, truth = conformance.quick_both(case.layer, *jaxbp.cast((params, x, ctx, dy), jnp.float64))
    if ctx.key is not None and "dropout" in repr(case.layer).lower():
        truth = jax.tree.map(lambda a: a.astype(jnp.float64), auto)  # the mask depends on the dtype drawn
    allowed = 4 * max(worst(lowered(auto), truth), 2 * float(jnp.finfo(dtype).eps))
    assert worst(lowered(hand), truth) <= allowed
    assert {g.dtype for g in jax.tree.leaves(hand["grads"])} <= {jnp.dtype(jnp.float32)}
    assert {g.dtype for g in jax.tree.leaves(hand["dx"])} <= {jnp.dtype(dtype)}


@ONE_EACH
@pytest.mark.slow
def test_transforms(case):
    """vmap over a stack of parameters, scan over it, remat, and a gradient inside another one, all as plain calls."""
    params, x, ctx, dy = setting(case)
    layer, function = case.layer, jaxbp.as_function(case.layer)
    if any(jnp.issubdtype(a.dtype, jnp.integer) for a in jax.tree.leaves(x)):
        return
    several = lambda tree: jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), tree)
    stack, xs = several(params), several(x)
    score = lambda f: lambda p, x: conformance.dot(f(p, x, ctx), dy)
    plain = score(lambda p, x, ctx: layer.forward(p, x, ctx)[0])
    quick = partial(jax.jit, compiler_options=conformance.QUICK)
    mapped = lambda f: quick(jax.vmap(jax.grad(f, (0, 1))))(stack, xs)
    assert worst(mapped(score(function)), mapped(plain)) <= FLOAT64_TOLERANCE
    scanned = lambda f: quick(lambda *both: jax.lax.map(lambda px: jax.grad(f, (0, 1))(*px), both))(stack, xs)
    assert worst(scanned(score(function)), scanned(plain)) <= FLOAT64_TOLERANCE
    of = lambda f: quick(jax.grad(jax.checkpoint(f), (0, 1)))(params, x)
    assert worst(of(score(function)), of(plain)) <= FLOAT64_TOLERANCE
    inner = lambda f: lambda p: conformance.dot(jax.grad(f, 1)(p, x), conformance.direction(x, 17))
    of = lambda f: quick(jax.grad(inner(f)))(params)
    assert worst(of(score(function)), of(plain)) <= FLOAT64_TOLERANCE


@ONE_EACH
@pytest.mark.slow
def test_four_devices(case):
    """A batch sharded over four devices gives the gradients of one device."""
    params, x, ctx, dy = setting(case, rows=8)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    back = jax.jit(lambda p, x, ctx, dy: case.layer.backward(p, case.layer.forward(p, x, ctx)[1], dy))
    one = back(params, x, ctx, dy)
    four = back(*jax.device_put((params, x, ctx, dy), (whole, rows, whole, rows)))
    assert worst(four, one) <= FLOAT64_TOLERANCE


def test_static_and_shared_pass_through_vmap():
    assert jax.tree.leaves(Static((3, 2))) == []
    assert jax.tree.leaves(Shared(1.0)) == [1.0]
