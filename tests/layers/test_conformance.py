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
from jaxbp.core import Shared, Static, cast, dot, map_leaves, path_name
from tests.support import conformance
from tests.support.conformance import all_cases, couples_batch, gradient_pair, is_floating, measure, measured, setting

pytestmark = pytest.mark.usefixtures("strict")
FIRST_OF_CLASS = {type(case.layer): case for case in reversed(all_cases())}.values()
# What XLA splits each in its own way: a product, windows, a mean over the batch, loops, a scatter, fan-out.
SPLIT = (jaxbp.Dense, jaxbp.Conv, jaxbp.BatchNorm, jaxbp.Recurrent, jaxbp.Embedding, jaxbp.Stack, jaxbp.Graph)


def for_cases(cases, fast=()):
    """The test of every case; in the fast suite of the cases `fast`."""
    slow = lambda case: () if case in fast else pytest.mark.slow
    return pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=slow(case)) for case in cases])


MEASURED = for_cases(all_cases(), fast=FIRST_OF_CLASS)  # one program a case


def excused(case, check):
    return check in dict(case.excused)


@pytest.mark.parametrize("cls", conformance.concrete_layers(), ids=lambda cls: cls.__name__)
def test_every_layer_has_cases(cls):
    conformance.assert_has_cases(cls)


def test_a_layer_without_cases_is_told_how_to_write_them():
    class Bare(jaxbp.Layer):
        def forward(self, params, x, ctx):
            return x, None

    assert not conformance.abstract(Bare)
    with pytest.raises(AssertionError, match=r"Bare has no cases.*\n.*\n.*return \[Case\(Bare"):
        conformance.assert_has_cases(Bare)


@MEASURED
def test_float64(case):
    """The gradient and every law of it at most 1e-11 from the oracle, and the oracle 1e-8 from central differences."""
    errors = {name: worst(*pair) for name, pair in measured(case)["pairs"].items() if not excused(case, name)}
    print(errors)
    differences = errors.pop("differences", 0)  # about eps^(2/3) = 4e-11, and curvature
    assert {name: error for name, error in errors.items() if not error <= FLOAT64_TOLERANCE} == {}
    assert differences <= 1e-8


@MEASURED
def test_trees(case):
    """grads like params, dx like x or None, state keeps its tree; caches: batch axis first."""
    params, x, ctx, dy = setting(case)
    layer = case.layer
    _, cache = jax.eval_shape(layer.forward, params, x, ctx)
    dx, grads = jax.eval_shape(layer.backward, params, cache, dy)
    spec = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    assert spec(grads) == spec(params)
    assert spec(dx) == spec(x) if is_floating(x) else dx is None
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


@MEASURED
def test_params_are_not_in_the_cache(case):
    """No array of the cache consists of a parameter's numbers: as they are, moved, repeated, or in bfloat16.

    But a learned initial state is an activation too: the one before the first step.
    """
    for path, parameter in jax.tree.leaves_with_path(setting(case)[0]):
        for kept in measured(case)["cache"]:
            nearest = np.abs(kept.reshape(-1, 1) - parameter.reshape(1, -1)).min(1)
            assert path_name(path) == "initial" or (nearest > 2**-8 * np.abs(kept.ravel())).any(), path_name(path)


@for_cases(all_cases(), fast=all_cases())
def test_prints_and_compares(case):
    names = vars(jaxbp) | vars(jaxbp.inits) | vars(jaxbp.wrappers) | vars(jaxbp.structures)
    if not excused(case, "repr"):
        assert eval(repr(case.layer), names) == case.layer
    assert hash(case.layer) == hash(dataclasses.replace(case.layer))
    assert map_leaves(case.layer, lambda leaf: leaf) == case.layer


@for_cases([case for case in all_cases() if not couples_batch(case)], fast=FIRST_OF_CLASS)
def test_rows_do_not_see_each_other(case):
    params, x, ctx, dy = setting(case)
    other = jax.tree.map(lambda a: a[[1, 1, 2, 3, 4]], x)
    y, y_other = (jax.device_get(measure(case, params, x, ctx, dy)["y"]) for x in (x, other))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1:], b[1:]), y, y_other)


@for_cases(all_cases(), fast=FIRST_OF_CLASS)
def test_hard_points_are_finite(case):
    """Far out and at zero the gradient is finite and JAX's own, kinks included."""
    params, x, ctx, dy = setting(case)
    for point in (1e4, -1e4, 0.0):
        far = jax.tree.map(partial(np.full_like, fill_value=point), x)
        hand, oracle = measure(case, params, far, ctx, dy)["pairs"]["gradient"]
        assert excused(case, "finite") or np.isfinite(largest_entry(hand)), point
        assert excused(case, "hard points") or worst(hand, oracle) <= FLOAT64_TOLERANCE, point


@for_cases(all_cases())
def test_one_row(case):
    assert worst(*gradient_pair(case.layer, *setting(case, rows=1))) <= FLOAT64_TOLERANCE


@for_cases(all_cases())
def test_float32(case):
    check_lower_precision(case, jnp.float32)


@for_cases(FIRST_OF_CLASS)
def test_bfloat16(case):
    check_lower_precision(case, jnp.bfloat16)


def check_lower_precision(case, dtype):
    """At most 4 times the larger of autodiff's own error against float64 and 2 ulp; dtypes as promised."""
    arguments = setting(case, dtype=dtype, params_dtype=jnp.float32)
    hand, auto = gradient_pair(case.layer, *arguments)
    exact = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
    _, truth = measure(case, *cast(arguments, jnp.float64))["pairs"]["gradient"]
    if "dropout" in repr(case.layer).lower():
        truth = exact(auto)  # the mask depends on the dtype drawn
    allowed = 4 * max(worst(exact(auto), truth), 2 * float(jnp.finfo(dtype).eps))
    assert worst(exact(hand), truth) <= allowed
    assert {g.dtype for g in jax.tree.leaves(hand["grads"])} <= {jnp.dtype(jnp.float32)}
    assert {g.dtype for g in jax.tree.leaves(hand["dx"])} <= {jnp.dtype(dtype)}


@for_cases([case for case in FIRST_OF_CLASS if is_floating(case.spec)])
def test_transforms(case):
    """vmap over a stack of parameters, scan over it, remat, and a gradient inside another one, all as plain calls."""
    params, x, ctx, dy = setting(case)
    stack = jax.tree.map(lambda a: np.stack([a, 2 * a, -a]), (params, x))

    def transformed(f, params, x, ctx, dy, stack):
        score = lambda p, x: dot(f(p, x, ctx), dy)
        gradient = jax.grad(score, (0, 1))
        inner = lambda p: dot(jax.grad(score, 1)(p, x), conformance.noise(x, 17))
        return {
            "vmap": jax.vmap(gradient)(*stack),
            "scan": jax.lax.map(lambda both: gradient(*both), stack),
            "remat": jax.grad(jax.checkpoint(score), (0, 1))(params, x),
            "inside": jax.grad(inner)(params),
        }

    function = jaxbp.as_function(case.layer)
    plain = lambda p, x, ctx: case.layer.forward(p, x, ctx)[0]
    both = jax.jit(lambda *arguments: [transformed(f, *arguments) for f in (function, plain)])
    hand, auto = both(params, x, ctx, dy, stack)
    errors = {name: worst(hand[name], auto[name]) for name in hand}
    assert {name: error for name, error in errors.items() if not error <= FLOAT64_TOLERANCE} == {}


@for_cases([case for case in FIRST_OF_CLASS if isinstance(case.layer, SPLIT)])
def test_four_devices(case):
    """A batch sharded over four devices gives the gradients of one device."""
    params, x, ctx, dy = setting(case, rows=8)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    back = jax.jit(lambda p, x, ctx, dy: case.layer.backward(p, case.layer.forward(p, x, ctx)[1], dy))
    sharded = back(*jax.device_put((params, x, ctx, dy), (whole, rows, whole, rows)))
    assert worst(sharded, back(params, x, ctx, dy)) <= FLOAT64_TOLERANCE


def test_static_and_shared_pass_through_vmap():
    """Per-example gradients: a fact stays a plain number, and an array without a batch axis is not mapped over."""

    class Spread(jaxbp.Layer):
        """y = x w spread^2, with the spread and its power in the cache."""

        def forward(self, params, x, ctx):
            return x * (params["w"] * ctx.state**2)[None], (x, Shared(ctx.state), Static(2))

        def backward(self, params, cache, dy):
            x, spread, power = cache
            assert type(power.value) is int
            assert spread.value.shape == (3,)
            scaled = dy * spread.value[None] ** power.value
            return scaled * params["w"][None], {"w": (x * scaled).sum(0)}

    params, spread, x = {"w": np.ones(3)}, np.array([1.0, 2.0, 3.0]), np.arange(15.0).reshape(5, 3)
    y, cache = Spread().forward(params, x, jaxbp.Context(state=spread))
    grads = Spread().sweep(jaxbp.rules.example_gradients, params, cache, jnp.ones_like(y))[1]
    np.testing.assert_array_equal(grads["w"], x * spread**2)
