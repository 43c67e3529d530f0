"""Under shard_map and jit with shardings: a sum over devices that is taken twice, left out, or replaced by a mean."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxbp.check import check_function, check_gradient
from tests.support.marks import but_at_night

rng = np.random.default_rng(0)
X, W, Y = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
MESH = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
GRID = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
total = lambda a: jax.lax.psum(a, "data")
mean = lambda a: jax.lax.pmean(a, "data")
nothing = lambda a: a
TWICE = "the sum over the 4 devices of mesh axis 'data'.* taken twice"
LEFT_OUT = "the sum over the 4 devices of mesh axis 'data' is left out after 'dot_general'"
MEAN = "a mean stands for the sum over the 4 devices of mesh axis 'data'"


def plain(x, w):
    return jnp.tanh(x @ w)


def rule(summed, mesh=MESH, inside=False):
    """tanh(x w), its rows spread over devices. inside: the rule is in the shard_map, which sums over w's devices."""
    slope = lambda x, w, dy: dy * (1 - jnp.tanh(x @ w) ** 2)
    each = lambda x, w, dy: (slope(x, w, dy) @ w.T, summed(x.T @ slope(x, w, dy)))
    specs = {"mesh": mesh, "check_vma": False}
    spread = jax.shard_map(each, in_specs=(P("data"), P(), P("data")), out_specs=(P("data"), P()), **specs)
    function = jax.custom_vjp(plain)
    function.defvjp(lambda x, w: (plain(x, w), (x, w)), lambda kept, dy: (each if inside else spread)(*kept, dy))
    return jax.shard_map(function, in_specs=(P("data"), P()), out_specs=P("data"), **specs) if inside else function


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def gradient(summed, parts):
    """The loss's gradient from what each device has; parts: by how many its mean is divided once more."""

    def each(w, x, y):
        h = jnp.tanh(x @ w)
        return summed(x.T @ (2 * (h - y) * (1 - h**2) / (h.size * parts)))

    return jax.shard_map(each, mesh=MESH, in_specs=(P(), P("data"), P("data")), out_specs=P(), check_vma=False)


def softmax(summed):
    """Over an axis that is spread over devices; summed: how the backward pass adds up."""
    exp = lambda x: jnp.exp(x) / total(jnp.exp(x).sum(1, keepdims=True))
    function = jax.custom_vjp(exp)
    back = lambda y, dy: (y * (dy - summed((y * dy).sum(1, keepdims=True))),)
    function.defvjp(lambda x: (exp(x), exp(x)), back)
    return jax.shard_map(function, mesh=MESH, in_specs=P(None, "data"), out_specs=P(None, "data"))


FUNCTIONS = {
    "twice, inside": (rule(total, inside=True), TWICE),
    "a mean, inside": (rule(lambda a: a / 4, inside=True), MEAN),
    "twice": (rule(lambda a: total(total(a))), TWICE),
    "a mean": (rule(mean), MEAN),
    "left out": (rule(nothing), LEFT_OUT),
    "over the other axis too": (
        rule(lambda a: jax.lax.psum(total(a), "model"), GRID),
        "the sum over the 2 devices of mesh axis 'model'.* taken twice",
    ),
    "over one axis of two": (rule(nothing, GRID), "the sum over the 2 devices of mesh axis 'data' is left out"),
}
GRADIENTS = {
    "a sum of means": (gradient(total, 1), TWICE),
    "left out": (gradient(nothing, 4), LEFT_OUT),
    "a mean left out": (gradient(nothing, 1), "the mean over the 4 devices of mesh axis 'data' is left out"),
    "a mean of parts": (gradient(mean, 4), MEAN),
}


def causes(report):
    return {leaf.path: str(leaf.causes[0]) for leaf in report.leaves if not leaf.passed}


@pytest.mark.slow
@pytest.mark.parametrize("name", but_at_night(FUNCTIONS, "a mean, inside", "twice", "a mean", "over one axis of two"))
def test_a_rule_with_a_wrong_sum_over_devices(name):
    function, text = FUNCTIONS[name]
    report = causes(check_function(function, X, W, reference=plain))
    assert [*report] == ["w"]
    assert re.search(f"sum over devices: .*{text}", report["w"])


@pytest.mark.slow
@pytest.mark.parametrize("name", but_at_night(GRADIENTS, "left out", "a mean of parts"))
def test_a_gradient_with_a_wrong_sum_over_devices(name):
    function, text = GRADIENTS[name]
    assert re.search(f"sum over devices: .*{text}", causes(check_gradient(function, loss, W, X, Y))["params"])


@pytest.mark.slow
def test_a_sum_within_the_backward_pass():
    x = rng.normal(size=(3, 8))
    reference = lambda x: jax.nn.softmax(x, 1)
    assert check_function(softmax(total), x, reference=reference).passed
    assert re.search("sum over .* is left out after 'reduce_sum'", causes(check_function(softmax(nothing), x))["x"])
    assert "a mean stands for the sum" in causes(check_function(softmax(mean), x))["x"]


@pytest.mark.slow
def test_right_sums_pass():
    assert check_function(rule(total), X, W, reference=plain).passed
    assert check_function(rule(nothing, inside=True), X, W, reference=plain).passed
    assert check_gradient(gradient(total, 4), loss, W, X, Y).passed


@pytest.mark.slow
def test_shardings_alone_tell_the_axis():
    rows, whole = NamedSharding(GRID, P("data")), NamedSharding(GRID, P())
    wrong = jax.jit(lambda w, x, y: 2 * jax.grad(loss)(w, x, y), in_shardings=(whole, rows, rows), out_shardings=whole)
    report = causes(check_gradient(wrong, loss, W, X, Y))
    assert "every entry is 2 times the true one: the sum over the 2 devices of mesh axis 'data'" in report["params"]


@pytest.mark.slow
def test_where_nothing_is_spread_no_device_is_named():
    report = causes(check_gradient(lambda *a: 4 * jax.grad(loss)(*a), loss, W, X, Y))
    assert "device" not in report["params"]
