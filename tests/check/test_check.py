"""The gradient check of functions: what it takes, what passes, what fails and in which words, what is refused."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap

import jaxbp
from jaxbp.check import Cause, assert_gradient, check_function, check_gradient, check_layer

rng = np.random.default_rng(3)
PARAMS = {"b": rng.normal(size=2), "w": rng.normal(size=(2, 3))}
X, Y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
A, B = rng.normal(size=4), rng.normal(size=4)


def loss(params, x, y):
    return jnp.sum((jnp.einsum("ni,oi->no", x, params["w"]) + params["b"] - y) ** 2) / 2


def gradient(params, x, y):
    dy = jnp.einsum("ni,oi->no", x, params["w"]) + params["b"] - y
    return {"b": jnp.einsum("no->o", dy), "w": jnp.einsum("no,ni->oi", dy, x)}


def numpy_loss(params, x, y):
    return np.sum((np.asarray(x) @ np.asarray(params["w"]).T + np.asarray(params["b"]) - np.asarray(y)) ** 2) / 2


def numpy_gradient(params, x, y):
    dy = np.asarray(x) @ np.asarray(params["w"]).T + np.asarray(params["b"]) - np.asarray(y)
    return {"b": dy.sum(0), "w": dy.T @ np.asarray(x)}


def changed(gradient, **leaves):
    """The gradient function with a function applied to each leaf that is named."""
    return lambda *args: {k: leaves.get(k, lambda g: g)(g) for k, g in gradient(*args).items()}


def damped(a, b):
    return jnp.tanh(a) * b


def right(cache, dy):
    a, b = cache
    return dy * (1 - jnp.tanh(a) ** 2) * b, dy * jnp.tanh(a)


def with_rule(backward, forward=damped):
    """forward(a, b) with a hand-written backward(cache, dy)."""

    @jax.custom_vjp
    def function(a, b):
        return forward(a, b)

    function.defvjp(lambda a, b: (forward(a, b), (a, b)), backward)
    return function


def verdicts(report):
    return {leaf.path: leaf.verdict for leaf in report.leaves}


def findings(report):
    return {finding.method: finding.passed for finding in report.findings}


# Leaves of every kind.


@partial(jax.tree_util.register_dataclass, data_fields=["scale"], meta_fields=["name"])
@dataclass(frozen=True)
class Part:
    scale: jax.Array
    name: str = "part"


KINDS = {
    "float32": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    "bfloat16": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
    "nested": (1.5, {"b": rng.normal(size=2)}),
    "part": Part(jnp.asarray(2.0)),
    "number": 0.7,
    "count": 3,
    "index": np.arange(4),
    "none": None,
}


def kinds_loss(p, x):
    y = jnp.tanh(p["nested"][0] * x @ p["float32"] + p["nested"][1]["b"])
    return p["count"] * p["part"].scale * jnp.sum(y) + p["number"] ** 2 * jnp.sum(p["bfloat16"])


def kinds_gradient(p, x):
    return jax.grad(kinds_loss, allow_int=True)(p, x) | {"count": None}


def test_leaves_of_every_kind():
    report = check_gradient(kinds_gradient, kinds_loss, KINDS, X)
    assert verdicts(report) == dict.fromkeys(
        ["bfloat16", "float32", "nested/0", "nested/1/b", "number", "part/scale"], "pass"
    )
    assert {leaf.path: leaf.dtype for leaf in report.leaves} == {
        "bfloat16": "bfloat16",
        "float32": "float32",
        "nested/0": "float",
        "nested/1/b": "float64",
        "number": "float",
        "part/scale": "float32",
    }
    assert report.passed


def test_one_wrong_leaf_among_many_is_named():
    def wrong(p, x):
        grads = kinds_gradient(p, x)
        scale, parts = grads["nested"]
        return grads | {"nested": (scale, {"b": 1.01 * parts["b"]})}

    report = check_gradient(wrong, kinds_loss, KINDS, X)
    assert [leaf.path for leaf in report.leaves if not leaf.passed] == ["nested/1/b"]
    leaf = report["nested/1/b"]
    assert leaf.ratio == pytest.approx(1.01)
    assert leaf.causes[0].cause is Cause.FACTOR
    assert "nested/1/b: likely cause: wrong factor" in str(report)


def test_a_leaf_without_a_gradient_is_missing():
    report = check_gradient(changed(gradient, w=lambda g: None), loss, PARAMS, X, Y)
    assert verdicts(report) == {"b": "pass", "w": "FAIL"}
    assert report["w"].causes[0].cause is Cause.MISSING


def test_a_leaf_of_another_shape_fails():
    report = check_gradient(changed(gradient, w=jnp.transpose), loss, PARAMS, X, Y)
    assert verdicts(report) == {"b": "pass", "w": "FAIL"}
    assert report["w"].causes[0].cause is Cause.TRANSPOSED


def test_an_empty_leaf_passes():
    params = {"a": np.ones(2), "empty": np.zeros((0, 4))}
    report = check_gradient(lambda p: p, lambda p: jnp.sum(p["a"] ** 2) / 2 + jnp.sum(p["empty"]), params)
    assert verdicts(report) == {"a": "pass", "empty": "pass"}


def test_a_leaf_that_is_zero_by_structure():
    params = {"a": np.ones(2), "unused": np.ones(3)}
    quadratic = lambda p: jnp.sum(p["a"] ** 2)
    assert check_gradient(lambda p: {"a": 2 * p["a"], "unused": 0 * p["unused"]}, quadratic, params).passed
    report = check_gradient(lambda p: {"a": 2 * p["a"], "unused": 1e-6 * p["unused"]}, quadratic, params)
    assert verdicts(report) == {"a": "pass", "unused": "FAIL"}


def test_the_callers_settings_do_not_matter(strict):
    assert check_gradient(gradient, loss, PARAMS, X, Y).passed


def test_the_assert_form_raises_the_report():
    assert assert_gradient(gradient, loss, PARAMS, X, Y).passed
    with pytest.raises(AssertionError, match=r"1 of 2 leaves right[\s\S]*b: likely cause: zero"):
        assert_gradient(changed(gradient, b=lambda g: 0 * g), loss, PARAMS, X, Y)


# Kinks: a slope of either side is as good as autodiff's, and is told as what it is.

KINKED = np.array([0.0, 1.0, -2.0])


@pytest.mark.parametrize(
    ("slope_at_zero", "function", "verdict"),
    [
        (0.5, jnp.maximum, "pass"),
        (0.0, jnp.maximum, "kink"),
        (0.0, lambda p, _: jax.nn.relu(p), "pass"),
        (0.5, lambda p, _: jax.nn.relu(p), "kink"),
    ],
)
def test_at_a_kink_another_slope_than_autodiffs_is_a_kink(slope_at_zero, function, verdict):
    hand = lambda p: jnp.where(p == 0, slope_at_zero, p > 0)
    assert verdicts(check_gradient(hand, lambda p: jnp.sum(function(p, 0.0)), KINKED)) == {"params": verdict}


@pytest.mark.parametrize("slope_at_zero", [0.0, 0.5, 1.0])
def test_a_kink_that_only_differences_see_is_a_kink(slope_at_zero):
    hand = lambda p: np.where(np.asarray(p) == 0, slope_at_zero, np.asarray(p) > 0)
    report = check_gradient(hand, lambda p: np.sum(np.maximum(np.asarray(p), 0)), KINKED)
    assert verdicts(report) == {"params": "kink"}
    assert report.passed


def test_a_kink_does_not_hide_a_wrong_gradient_beside_it():
    hand = lambda p: np.where(np.asarray(p) < 0, 5.0, np.asarray(p) > 0)
    assert not check_gradient(hand, lambda p: np.sum(np.maximum(np.asarray(p), 0)), KINKED).passed


def test_a_rule_of_jax_itself_counts_at_a_kink():
    assert check_function(jax.nn.relu, KINKED).passed


# NumPy.


def test_a_numpy_gradient_of_a_jax_loss():
    report = check_gradient(numpy_gradient, loss, PARAMS, X, Y)
    assert report.passed
    assert all(leaf.error <= 1e-11 for leaf in report.leaves)
    wrong = check_gradient(changed(numpy_gradient, b=lambda g: g / 5), loss, PARAMS, X, Y)
    assert verdicts(wrong) == {"b": "FAIL", "w": "pass"}
    assert wrong["b"].causes[0].cause is Cause.MEAN


@pytest.mark.parametrize("hand", [numpy_gradient, gradient], ids=["numpy", "jax"])
def test_a_numpy_loss_is_differenced(hand):
    report = check_gradient(hand, numpy_loss, PARAMS, X, Y)
    assert report.passed
    assert all(np.isnan(leaf.error) and leaf.difference_error < 1e-9 for leaf in report.leaves)
    assert verdicts(check_gradient(changed(hand, w=lambda g: 1.0001 * g), numpy_loss, PARAMS, X, Y)) == {
        "b": "pass",
        "w": "FAIL",
    }


@pytest.mark.parametrize("fault", [1.001, *(v for v in (np.nan, np.inf))])
def test_a_leaf_too_large_to_difference_entry_by_entry(fault):
    params, value = rng.normal(size=401), lambda p: np.sum(np.asarray(p) ** 2) / 2
    assert check_gradient(np.asarray, value, params).passed
    assert not check_gradient(lambda p: fault * np.asarray(p), value, params).passed


def test_a_leaf_of_another_shape_fails_without_autodiff_too():
    value = lambda p: np.sum(np.asarray(p) ** 2) / 2
    report = check_gradient(lambda p: np.asarray(p)[None], value, rng.normal(size=401))
    assert verdicts(report) == {"params": "FAIL"}


def test_full_level_of_numpy_code_says_what_it_leaves_out():
    assert findings(check_gradient(numpy_gradient, loss, PARAMS, X, Y, level="full"))["full level"] is None


# Functions with a rule of their own.


@pytest.mark.parametrize("reference", [None, damped], ids=["alone", "reference"])
def test_a_function_with_a_rule_of_its_own(reference):
    report = check_function(with_rule(right), A, B, reference=reference)
    assert verdicts(report) == {"a": "pass", "b": "pass"}
    assert report.passed
    wrong = with_rule(lambda cache, dy: (right(cache, dy)[0], 2 * right(cache, dy)[1]))
    assert verdicts(check_function(wrong, A, B, reference=reference)) == {"a": "pass", "b": "FAIL"}


def test_a_custom_jvp():
    @jax.custom_jvp
    def square(a):
        return a * a

    square.defjvp(lambda primals, tangents: (square(primals[0]), 2 * primals[0] * tangents[0]))
    assert check_function(square, A).passed
    square.defjvp(lambda primals, tangents: (square(primals[0]), primals[0] * tangents[0]))
    assert verdicts(check_function(square, A)) == {"a": "FAIL"}


def test_arguments_keep_their_order_and_their_names():
    product = lambda x, w: jnp.einsum("ni,io->no", x, w)
    wrong = with_rule(lambda c, dy: (dy @ c[1].T, 0.9 * c[0].T @ dy), product)
    named = lambda x, w: wrong(x, w)
    assert verdicts(check_function(named, X, PARAMS["w"].T)) == {"x": "pass", "w": "FAIL"}


def test_an_integer_argument_is_held_fixed():
    report = check_function(lambda base, power: base**power, A, 3)
    assert verdicts(report) == {"base": "pass"}


def test_a_numpy_reference_is_differenced():
    plain = lambda a, b: np.tanh(np.asarray(a)) * np.asarray(b)
    assert check_function(with_rule(right), A, B, reference=plain).passed


def test_a_reference_with_other_values_is_no_reference():
    assert not check_function(with_rule(right), A, B, reference=lambda a, b: damped(a, b) + 1).passed


def test_a_backward_that_is_not_linear_in_dy():
    report = check_function(with_rule(lambda c, dy: right(c, jnp.abs(dy))), A, B)
    assert findings(report)["linear in dy"] is False
    assert "backward must be linear in dy" in str(report)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_a_backward_that_loses_precision(dtype):
    low = lambda c, dy: jax.tree.map(lambda g: g.astype(dy.dtype), right(jaxbp.cast(c, dtype), dy.astype(dtype)))
    report = check_function(with_rule(low), A, B)
    assert verdicts(report) == {"a": "FAIL", "b": "FAIL"}
    assert {leaf.causes[0].cause for leaf in report.leaves} == {Cause.PRECISION}


def test_accuracy_is_the_callers():
    nearly = changed(gradient, b=lambda g: g * (1 + 1e-7))
    assert not check_gradient(nearly, loss, PARAMS, X, Y).passed
    assert check_gradient(nearly, loss, PARAMS, X, Y, accuracy=1e-6).passed


# The full level.


@pytest.mark.slow
def test_a_point_where_only_the_hand_written_one_is_not_finite():
    """d softplus = e^a / (1 + e^a): right, and inf / inf far out."""
    softplus = lambda a, b: jnp.logaddexp(a, 0.0) * b
    naive = lambda c, dy: (dy * c[1] * jnp.exp(c[0]) / (1 + jnp.exp(c[0])), dy * jnp.logaddexp(c[0], 0.0))
    report = check_function(with_rule(naive, softplus), A, B, level="full")
    assert verdicts(report) == {"a": "pass", "b": "pass"}
    assert [name for name, passed in findings(report).items() if passed is False] == ["every leaf 10000"]


@pytest.mark.slow
def test_a_right_function_passes_every_law():
    report = check_function(with_rule(right), A, B, level="full")
    assert report.passed
    asked = {"float32", "bfloat16", "vmap", "scan", "remat", "inside another gradient", "every leaf 0"}
    assert asked <= set(findings(report))
    report = check_gradient(gradient, loss, PARAMS, X, Y, level="full")
    assert report.passed
    assert {"duplicated batch", "permuted batch", "one row", "ragged split"} <= set(findings(report))


@pytest.mark.slow
def test_a_missing_leaf_at_the_full_level():
    class Forgetful(jaxbp.Dense):
        def backward(self, params, cache, dy):
            dx, grads = super().backward(params, cache, dy)
            return dx, grads | {"b": None}

    report = check_layer(Forgetful(2), jaxbp.shaped(3, 2), level="full")
    assert verdicts(report) == {"dx": "pass", "grads/b": "FAIL", "grads/w": "pass"}
    assert findings(report)["sum of per-example gradients"] is False


@pytest.mark.slow
@pytest.mark.parametrize(("wrong_for", "law"), [(1, "one row"), (10, "duplicated batch")])
def test_wrong_only_at_one_batch_size(wrong_for, law):
    def wrong(params, x, y):
        return changed(gradient, b=lambda g: 0 * g if len(x) == wrong_for else g)(params, x, y)

    report = check_gradient(wrong, loss, PARAMS, X, Y, level="full")
    assert verdicts(report) == {"b": "pass", "w": "pass"}
    assert [name for name, passed in findings(report).items() if passed is False] == [law]


@pytest.mark.slow
def test_wrong_only_under_vmap():
    @custom_vmap
    def slope(a):
        return 1 - jnp.tanh(a) ** 2

    slope.def_vmap(lambda size, batched, a: (1.1 * (1 - jnp.tanh(a) ** 2), True))
    report = check_function(with_rule(lambda c, dy: (dy * slope(c[0]) * c[1], dy * jnp.tanh(c[0]))), A, B, level="full")
    assert verdicts(report) == {"a": "pass", "b": "pass"}
    assert findings(report)["vmap"] is False


@pytest.mark.slow
def test_low_precision_inside_a_float32_backward():
    def low(c, dy):
        dtype = jnp.bfloat16 if dy.dtype == jnp.float32 else dy.dtype
        return jax.tree.map(lambda g: g.astype(dy.dtype), right(jaxbp.cast(c, dtype), dy.astype(dtype)))

    report = check_function(with_rule(low), A, B, level="full")
    assert verdicts(report) == {"a": "pass", "b": "pass"}
    assert [name for name, passed in findings(report).items() if passed is False] == ["float32"]


# What is refused, in one line.


def boom(*args):
    raise RuntimeError("the first line\nthe second line")


def other(value):
    return lambda *args: value


REFUSED = [
    (lambda: check_gradient(gradient, lambda p, x, y: x, PARAMS, X, Y), r"loss must be a scalar.*\(5, 3\)"),
    (lambda: check_gradient(numpy_gradient, lambda p, x, y: np.asarray(x), PARAMS, X, Y), r"be a scalar.*\(5, 3\)"),
    (lambda: check_gradient(gradient, lambda *args: (loss(*args), 0), PARAMS, X, Y), "loss must be a scalar"),
    (lambda: check_gradient(other({"w": X}), loss, PARAMS, X, Y), "it has no 'b' .found w."),
    (lambda: check_gradient(other({"b": X, "w": X, "v": X}), loss, PARAMS, X, Y), "a leaf 'v' that .* do not have"),
    (lambda: check_gradient(other(X), loss, PARAMS, X, Y), "the tree that .* returned does not match"),
    (lambda: check_gradient(gradient, loss, {"n": np.arange(3)}, X, Y), "no leaf of the parameters is a floating"),
    (lambda: check_gradient(gradient, loss, {}, X, Y), "no leaf of the parameters is a floating-point array"),
    (lambda: check_gradient(gradient, boom, PARAMS, X, Y), "boom raised RuntimeError: the first line$"),
    (lambda: check_gradient(boom, loss, PARAMS, X, Y), "boom raised RuntimeError: the first line$"),
    (lambda: check_function(boom, A), "boom raised RuntimeError: the first line$"),
    (lambda: check_function(with_rule(right), A), "function raised TypeError"),
    (lambda: check_function(with_rule(right), A, B, reference=boom), "boom raised RuntimeError"),
    (lambda: check_function(with_rule(right), A, B, reference=other(jnp.ones(3))), r"not the same forward.*4,.*3,"),
    (lambda: check_function(lambda a: a > 0, A), "returns nothing floating"),
]
SETTINGS = [
    (lambda: check_gradient(gradient, other(None), PARAMS, X, Y), "loss must be a scalar"),
    (lambda: check_gradient(gradient, other(jnp.int32(3)), PARAMS, X, Y), "loss must be a scalar"),
    (lambda: check_function(with_rule(boom), A, B), "raised RuntimeError: the first line$"),
    (lambda: check_function(with_rule(lambda c, dy: (dy,)), A, B), "raised TypeError"),
    (lambda: check_layer(jaxbp.Dense(3), jaxbp.shaped()), "raised IndexError"),
    (lambda: check_gradient(gradient, loss, PARAMS, X, Y, level="ful"), "level"),
    (lambda: check_gradient(gradient, loss, PARAMS, X, Y, accuracy=-1.0), "accuracy"),
]


@pytest.mark.parametrize(("call", "text"), [*REFUSED, *SETTINGS])
def test_refused_in_one_line(call, text):
    with pytest.raises(jaxbp.InputError, match=text) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_refused_where_there_is_no_float64(monkeypatch):
    monkeypatch.setattr(jax, "enable_x64", lambda on: jax.numpy_rank_promotion("allow"))
    with pytest.warns(UserWarning, match="truncated"), pytest.raises(jaxbp.InputError, match="set jax_enable_x64"):
        check_gradient(gradient, loss, PARAMS, X, Y)
