"""Where a function runs: kernels, checkpoint, shard_map, its own precision, static arguments; declared gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbp.check import Cause, check_function, check_gradient
from jaxbp.errors import InputError
from tests.support.marks import first_is_fast

rng = np.random.default_rng(0)
X, W = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))


def with_rule(forward, backward):
    """forward(x) with backward(x, dy)."""
    ruled = jax.custom_vjp(lambda x: forward(x))
    ruled.defvjp(lambda x: (forward(x), x), lambda x, dy: (backward(x, dy),))
    return ruled


def verdicts(report):
    return {leaf.path: leaf.verdict for leaf in report.leaves}


def lines(report, method):
    return [finding.text for finding in report.findings if finding.method == method]


# Kernels and other operations that compile anew for every call.


def kernel(body, dtype=None):
    """body(x) as a Pallas kernel in interpret mode, its output of a dtype of its own."""

    def into(x_ref, y_ref):
        y_ref[...] = body(x_ref[...])

    return lambda x: pl.pallas_call(into, jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), interpret=True)(x)


KERNELS = {
    "tanh": (jnp.tanh, lambda x, dy: dy * (1 - jnp.tanh(x) ** 2), lambda x, dy: dy * (1 - jnp.tanh(x))),
    "exp": (jnp.exp, lambda x, dy: dy * jnp.exp(x), lambda x, dy: dy * jnp.exp(-x)),
    "square": (jnp.square, lambda x, dy: 2 * x * dy, lambda x, dy: x * dy),
    "sum of rows": (lambda x: jnp.cumsum(x, 0), lambda x, dy: jnp.cumsum(dy[::-1], 0)[::-1], lambda x, dy: dy),
    "a backward kernel": (jnp.sin, lambda x, dy: dy * kernel(jnp.cos)(x), lambda x, dy: dy * kernel(jnp.sin)(x)),
}


@pytest.mark.parametrize("name", first_is_fast(KERNELS))
def test_a_kernel_alone_is_compiled_once(name, monkeypatch):
    body, right, wrong = KERNELS[name]
    traces = []

    def counted(x):
        traces.append(x)
        return body(x)

    assert check_function(with_rule(kernel(counted), right), X).passed
    assert len(traces) < 20
    assert verdicts(check_function(with_rule(kernel(body), wrong), X)) == {"x": "FAIL"}


@pytest.mark.slow
def test_a_while_loop_alone_is_compiled_once():
    traces = []

    def halved(x):
        traces.append(x)
        return jax.lax.while_loop(lambda x: jnp.max(jnp.abs(x)) > 1, lambda x: x / 2, x)

    scale = lambda x: 0.5 ** jnp.ceil(jnp.log2(jnp.max(jnp.abs(x))))
    assert check_function(with_rule(halved, lambda x, dy: dy * scale(x)), X).passed
    assert len(traces) < 20


# Rules inside of transformations.

MESH = partial(jax.make_mesh, (2,), ("d",))
sine = with_rule(jnp.sin, lambda x, dy: dy * jnp.cos(x))
off = with_rule(jnp.sin, lambda x, dy: dy * jnp.cos(x) * jnp.where(x > 0, 1.1, 1))
INSIDE = {
    "checkpoint": lambda f: jax.checkpoint(f),
    "checkpoint in a scan": lambda f: lambda x: jax.lax.scan(jax.checkpoint(lambda c, r: (c, f(r))), 0, x)[1],
    "checkpoint of a jit": lambda f: jax.checkpoint(jax.jit(lambda x: 2 * f(x))),
    "a policy": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable),
    "shard_map": lambda f: jax.shard_map(f, mesh=MESH(axis_types=(AxisType.Auto,)), in_specs=P("d"), out_specs=P("d")),
    "shard_map of columns and a sum": lambda f: jax.shard_map(
        lambda x: jax.lax.psum(jnp.sum(f(x), 0, keepdims=True), "d"),
        mesh=MESH(axis_types=(AxisType.Auto,)),
        in_specs=P("d"),
        out_specs=P(),
    ),
    "checkpoint of a shard_map": lambda f: jax.checkpoint(INSIDE["shard_map"](f)),
}


@pytest.mark.parametrize("name", first_is_fast(INSIDE))
def test_a_rule_inside_without_a_reference(name):
    assert check_function(INSIDE[name](sine), X).passed
    assert verdicts(check_function(INSIDE[name](off), X)) == {"x": "FAIL"}


# Gradients that are declared.

stop = jax.lax.stop_gradient
heaviside = lambda v: jnp.where(v > 0, 1.0, 0.0).astype(v.dtype)
clip = with_rule(lambda x: x, lambda x, dy: jnp.clip(dy, -1, 1))
slope = lambda v: 1 / (1 + jnp.abs(v)) ** 2
SURROGATES = {
    "straight through": (jnp.round, lambda x, dy: dy, lambda x: x + stop(jnp.round(x) - x)),
    "the identity for it": (jnp.round, lambda x, dy: dy, lambda x: x),
    "through within bounds": (jnp.sign, lambda x, dy: jnp.where(jnp.abs(x) < 1, dy, 0), lambda x: jnp.clip(x, -1, 1)),
    "a spike": (heaviside, lambda v, dy: dy * slope(v), lambda v: v / (1 + jnp.abs(v))),
    "clipped": (lambda x: x, lambda x, dy: jnp.minimum(jnp.maximum(dy, -1), 1), clip),
    "reversed": (lambda x: x, lambda x, dy: -0.5 * dy, lambda x: -0.5 * x),
}


@pytest.mark.parametrize("name", first_is_fast(SURROGATES))
def test_a_surrogate_gradient_is_checked_against_its_reference(name):
    forward, backward, reference = SURROGATES[name]
    report = check_function(with_rule(forward, backward), X, reference=reference, surrogate=True)
    assert report.passed, str(report)
    assert np.isnan(report["x"].difference_error)
    wrong = with_rule(forward, lambda x, dy: 1.01 * backward(x, dy))
    report = check_function(wrong, X, reference=reference, surrogate=True)
    assert verdicts(report) == {"x": "FAIL"}
    assert report["x"].causes[0].cause is Cause.FACTOR


@pytest.mark.slow
def test_a_surrogate_that_clips_elsewhere_fails_at_a_larger_dy():
    function = with_rule(lambda x: x, lambda x, dy: jnp.clip(dy, -3, 3))
    report = check_function(function, X, reference=with_rule(lambda x: x, lambda x, dy: dy), surrogate=True)
    assert verdicts(report) == {"x": "pass"}
    assert not report.passed


# Its own precision.

single = partial(kernel, dtype=jnp.float32)
NATIVE = {name: (single(body), right, wrong, body) for name, (body, right, wrong) in list(KERNELS.items())[:4]}
NATIVE["a cast"] = (
    lambda x: jnp.tanh(x.astype(jnp.float32)),
    lambda x, dy: dy * (1 - jnp.tanh(x) ** 2),
    lambda x, dy: dy,
    jnp.tanh,
)


@pytest.mark.parametrize("name", first_is_fast(NATIVE))
def test_a_float32_kernel_beside_a_float64_reference(name):
    forward, right, wrong, reference = NATIVE[name]
    report = check_function(with_rule(forward, right), X, reference=reference, native=True)
    assert report.passed, str(report)
    assert verdicts(check_function(with_rule(forward, wrong), X, reference=reference, native=True)) == {"x": "FAIL"}
    rough = with_rule(forward, lambda x, dy: right(x, dy) * (1 + 3e-5))
    assert verdicts(check_function(rough, X, reference=reference, native=True)) == {"x": "FAIL"}


@pytest.mark.slow
def test_bfloat16_is_its_own_precision_too():
    x = jnp.asarray(X, jnp.bfloat16)
    product = with_rule(lambda x: x * x, lambda x, dy: (2 * x * dy).astype(jnp.bfloat16))
    report = check_function(product, x, reference=lambda x: x * x, native=True)
    assert report.passed
    assert report["x"].error > 1e-4


def test_a_kernel_of_one_precision_is_told_what_helps():
    function = with_rule(single(jnp.tanh), lambda x, dy: dy)
    with pytest.raises(InputError, match="native=True checks a function in its arguments' own precision"):
        check_function(function, X, reference=jnp.tanh)


@pytest.mark.parametrize("word", ["native", "surrogate"])
def test_a_reference_is_needed(word):
    with pytest.raises(InputError, match=f"{word}=True needs a reference"):
        check_function(sine, X, **{word: True})


def test_a_surrogate_needs_a_reference_that_jax_differentiates():
    with pytest.raises(InputError, match="JAX cannot differentiate the reference"):
        check_function(sine, X, reference=lambda x: np.sin(np.asarray(x)), surrogate=True)


@pytest.mark.slow
def test_first_order_only():
    def cosine(x):
        return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, jnp.cos(c[1])), (0, x))[1]

    function = with_rule(jnp.sin, lambda x, dy: dy * cosine(x))
    outcome = lambda report: {finding.method: finding.passed for finding in report.findings}
    asked = outcome(check_function(function, X, reference=jnp.sin, level="full"))
    assert asked["inside another gradient"] is False
    report = check_function(function, X, reference=jnp.sin, level="full", first_order=True)
    assert report.passed, str(report)
    assert "inside another gradient" not in outcome(report)


# Keywords and static arguments.


def scaled(x, w=None, *, power=2, mode="sum", flag=False):
    y = x if w is None else x @ w
    assert mode in ("sum", "mean")
    assert not isinstance(power, jax.Array)
    return (y if flag else y**power).sum() if mode == "sum" else (y**power).mean()


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def powered(x, power, name):
    assert isinstance(power, float)
    assert isinstance(name, str)
    return x**power


powered.defvjp(lambda x, power, name: (x**power, x), lambda power, name, x, dy: (power * x ** (power - 1) * dy,))


@pytest.mark.slow
def test_keywords_go_to_the_function_and_to_its_reference():
    report = check_function(scaled, X, reference=scaled, w=W, power=3, mode="mean")
    assert verdicts(report) == {"x": "pass", "w": "pass"}
    assert verdicts(check_function(scaled, X, flag=True)) == {"x": "pass"}


def test_a_wrong_rule_in_a_keyword_argument_is_named():
    product = with_rule(lambda w: 2 * w, lambda w, dy: dy)
    report = check_function(lambda x, *, w: x @ product(w), X, w=W)
    assert verdicts(report) == {"x": "pass", "w": "FAIL"}


def test_arguments_that_a_rule_excludes_are_held_fixed():
    assert verdicts(check_function(powered, np.abs(X), 3.0, "cube")) == {"x": "pass"}


def test_static_arguments_of_jit_go_by_keyword():
    jitted = jax.jit(lambda x, eps, kind: jnp.sin(x) * eps, static_argnames=("eps", "kind"))
    assert verdicts(check_function(jitted, X, eps=0.5, kind="a")) == {"x": "pass"}


def test_a_numpy_reference_takes_keywords_too():
    reference = lambda x, *, w, power: np.power(np.asarray(x) @ w, power)
    report = check_function(lambda x, *, w, power: (x @ w) ** power, X, reference=reference, w=W, power=2)
    assert verdicts(report) == {"x": "pass", "w": "pass"}


def test_an_unknown_keyword_is_the_functions_own_error():
    with pytest.raises(InputError, match=r"scaled raised TypeError: .*unexpected keyword argument 'acuracy'"):
        check_function(scaled, X, acuracy=1)


@pytest.mark.slow
def test_arrays_in_a_closure():
    assert check_function(with_rule(lambda x: x @ W, lambda x, dy: dy @ W.T), X).passed
    assert not check_function(with_rule(lambda x: x @ W, lambda x, dy: 1.1 * dy @ W.T), X).passed


# Shardings on several devices.

EXPLICIT = partial(MESH, axis_types=(AxisType.Explicit,))


def placed(x, spec, mesh):
    return jax.device_put(np.asarray(x, np.float32), NamedSharding(mesh, spec))


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("spec", [P("d"), P(None, "d"), P()], ids=["rows", "columns", "whole"])
def test_sharded_arguments(spec, axis_type):
    mesh = MESH(axis_types=(axis_type,))
    x = placed(rng.normal(size=(4, 6)), spec, mesh)
    sharded = jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)
    right, wrong = (with_rule(sharded, rule) for rule in (lambda x, dy: dy * jnp.cos(x), lambda x, dy: dy))
    for reference in (None, jnp.sin):
        assert check_function(right, x, reference=reference).passed
        assert verdicts(check_function(wrong, x, reference=reference)) == {"x": "FAIL"}


@pytest.mark.slow
def test_a_softmax_over_devices_and_its_missing_sum():
    mesh = EXPLICIT()
    spec = P(None, "d")

    def forward(x):
        e = jnp.exp(x)
        return e / jax.lax.psum(e.sum(1, keepdims=True), "d")

    def rule(total):
        def backward(y, dy):
            return (y * (dy - total((y * dy).sum(1, keepdims=True))),)

        function = jax.custom_vjp(forward)
        function.defvjp(lambda x: (forward(x), forward(x)), backward)
        return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)

    x = placed(rng.normal(size=(4, 6)), spec, mesh)
    softmax = lambda x: jax.nn.softmax(x, 1)
    assert check_function(rule(lambda s: jax.lax.psum(s, "d")), x, reference=softmax).passed
    assert check_function(rule(lambda s: jax.lax.psum(s, "d")), x).passed
    assert verdicts(check_function(rule(lambda s: s), x, reference=softmax)) == {"x": "FAIL"}


@pytest.mark.slow
def test_a_gradient_under_jit_with_shardings():
    mesh = MESH(axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w))
    slope = lambda w, x: x.T @ (1 - jnp.tanh(x @ w) ** 2)
    gradient = jax.jit(slope, in_shardings=(whole, rows), out_shardings=whole)
    assert check_gradient(gradient, jax.jit(loss, in_shardings=(whole, rows)), W, X).passed
    wrong = jax.jit(lambda w, x: 2 * slope(w, x), in_shardings=(whole, rows), out_shardings=whole)
    assert verdicts(check_gradient(wrong, loss, W, X)) == {"params": "FAIL"}


# A narrower type inside.

NARROW = {
    "a cast": lambda x: jnp.sin(x.astype(jnp.float32)),
    "a cast in a jit": jax.jit(lambda x: jnp.sin(x.astype(jnp.bfloat16)).astype(x.dtype)),
    "a cast in a scan": lambda x: jax.lax.map(lambda r: jnp.sin(r.astype(jnp.float16)), x),
    "attention of jax.nn": lambda x: jax.nn.dot_product_attention(*[x.reshape(1, 2, 3, 2)] * 3),
    "a product's type": lambda x: jax.lax.dot(x, x.T, preferred_element_type=jnp.float32),
    "reduced": lambda x: jnp.asarray(x, jnp.float32) ** 2,
}


@pytest.mark.parametrize("name", first_is_fast(NARROW))
def test_a_narrower_type_inside_is_said(name):
    (text,) = lines(check_function(NARROW[name], X), "narrower type")[:1]
    assert "goes from float64 to " in text
    assert "(test_where_it_runs.py:" in text
    assert "accuracy=" in text


def test_a_narrower_type_in_a_rule_alone_is_said_of_it():
    rule = with_rule(jnp.sin, lambda x, dy: (dy.astype(jnp.float32) * jnp.cos(x)).astype(dy.dtype))
    report = check_function(rule, X)
    assert verdicts(report) == {"x": "FAIL"}
    (text,) = lines(report, "narrower type")
    assert text.startswith("the derivative of <lambda> goes from float64 to float32 at 'convert_element_type'")


@pytest.mark.slow
def test_float64_throughout_is_not_said_to_be_narrow():
    assert not lines(check_function(sine, X), "narrower type")
    assert not lines(check_function(sine, X.astype(np.float32), reference=jnp.sin), "narrower type")
