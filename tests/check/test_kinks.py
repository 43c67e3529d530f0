"""At a kink every slope between those of the two sides is right, and no other: along each entry and along several."""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import InputError
from jaxbp.check import check_function, check_gradient
from jaxbp.check.differences import UNKNOWN, thorough

rng = np.random.default_rng(8)
C = np.array([1.0, -2.0, 0.5, 3.0])
X = rng.normal(size=(6, 3))
MIXED = rng.normal(size=(3, 4))  # deltas of either sign
UP = np.abs(MIXED)


@dataclass(frozen=True)
class Kink:
    """loss(params) with gradients that are right at `at`, and others that are wrong."""

    name: str
    loss: object
    at: object
    right: list
    wrong: list = field(default_factory=list)

    def __str__(self):
        return self.name


zeros = np.zeros(4)
first = np.zeros((3, 4))
first[:, 0] = 1
pooled = lambda deltas: lambda a: jnp.sum(deltas[:, 0] * jnp.max(a, axis=1))
split = np.full((3, 4), 0.25)
to = lambda winners, deltas: winners * deltas[:, :1]
both = np.array([1.0, 1.0, 0, 0])
pairs = {"a": np.ones(3), "b": np.ones(3)}
signs = np.array([1.0, -2.0, 3.0])
dead = lambda a: jnp.sum(C * jnp.maximum(a, 0))

KINKS = [
    Kink(
        "relu with deltas of either sign",
        dead,
        zeros,
        [0 * C, C, C / 2, C * [0, 1, 0.3, 1]],
        [2 * C, -C, C * [0, 0, 0, 2], 0 * C + 99],
    ),
    Kink(
        "relu, one entry of four",
        dead,
        np.array([0.0, 1, -1, 2]),
        [C * [0, 1, 0, 1], C * [1, 1, 0, 1]],
        [C * [1.5, 1, 0, 1], C * [0, 1, 1, 1], C * [0, 1.001, 0, 1]],
    ),
    Kink("abs", lambda a: jnp.sum(C * jnp.abs(a)), zeros, [0 * C, C, -C, C / 3], [1.2 * C, -2 * C, 0 * C + 99]),
    Kink(
        "leaky relu",
        lambda a: jnp.sum(C * jnp.where(a > 0, a, 0.1 * a)),
        zeros,
        [C, 0.1 * C, 0.5 * C],
        [0 * C, 1.1 * C],
    ),
    Kink(
        "clip at its bounds",
        lambda a: jnp.sum(C * jnp.clip(a, -1, 1)),
        np.array([1.0, -1, 0, 1]),
        [C * [1, 1, 1, 1], C * [0, 0, 1, 0.5]],
        [C * [2, 1, 1, 1], C * [0, 0, 0, 0]],
    ),
    Kink(
        "hinge at its margin",
        lambda a: jnp.sum(UP[0] * jnp.maximum(1 - a, 0)),
        np.ones(4),
        [-UP[0], 0 * C],
        [UP[0], -1.5 * UP[0]],
    ),
    Kink(
        "maximum of one tie",
        lambda a: jnp.max(a),
        np.array([2.0, 2, 1, 0]),
        [np.array([1.0, 0, 0, 0]), both / 2, np.array([0.3, 0.7, 0, 0])],
        [both, 0 * both, both * 99, 0.7 * both, both / 2 + [0, 0, 0.1, 0]],
    ),
    Kink(
        "minimum of one tie",
        lambda a: jnp.min(a),
        np.array([2.0, 2, 3, 4]),
        [np.array([1.0, 0, 0, 0]), both / 2],
        [both, 0 * both, -both],
    ),
    Kink(
        "maximum of four that are equal",
        lambda a: jnp.max(a),
        zeros,
        [np.full(4, 0.25), np.eye(4)[2]],
        [np.ones(4), 0 * C, np.full(4, 0.3)],
    ),
    Kink(
        "pools of equal entries, positive deltas",
        pooled(UP),
        np.zeros((3, 4)),
        [to(first, UP), to(split, UP)],
        [to(first * [[1], [0], [1]], UP), to(np.ones((3, 4)), UP), to(2 * first, UP)],
    ),
    Kink(
        "pools of equal entries, deltas of either sign",
        pooled(MIXED),
        np.zeros((3, 4)),
        [to(first, MIXED), to(split, MIXED), to(first[:, ::-1], MIXED)],
        [to(first * [[1], [0], [1]], MIXED), to(np.ones((3, 4)), MIXED), to(-first, MIXED)],
    ),
    Kink(
        "maximum of two leaves that are equal",
        lambda p: jnp.sum(signs * jnp.maximum(p["a"], p["b"])),
        pairs,
        [
            {"a": signs, "b": 0 * signs},
            {"a": signs / 2, "b": signs / 2},
            {"a": signs * [1, 0, 1], "b": signs * [0, 1, 0]},
        ],
        [{"a": signs, "b": signs}, {"a": 0 * signs, "b": 0 * signs}, {"a": signs * [1, 1, 0], "b": 0 * signs}],
    ),
    Kink(
        "where of two leaves that are equal",
        lambda p: jnp.sum(signs * jnp.where(p["a"] >= p["b"], p["a"], p["b"])),
        pairs,
        [{"a": 0 * signs, "b": signs}],
        [{"a": signs, "b": signs}],
    ),
    Kink(
        "sort at ties",
        lambda a: jnp.sum(np.array([0.0, 1, 2, 3]) * jnp.sort(a)),
        np.array([2.0, 2, 1, 0]),
        [np.array([2.0, 3, 1, 0]), np.array([3.0, 2, 1, 0]), np.array([2.5, 2.5, 1, 0])],
        [np.array([3.0, 3, 1, 0]), np.array([2.0, 2, 1, 0]), np.array([2.0, 3, 0, 1])],
    ),
    Kink(
        "cumulative maximum of equal entries",
        lambda a: jnp.sum(jax.lax.cummax(a)),
        np.array([1.0, 1, 0, 2]),
        [np.array([3.0, 0, 0, 1]), np.array([1.0, 2, 0, 1])],
        [np.array([3.0, 2, 0, 1]), np.array([1.0, 0, 0, 1])],
    ),
    Kink(
        "median of equal entries",
        lambda a: jnp.median(a),
        np.array([0.0, 1, 1, 1, 3]),
        [np.array([0.0, 1, 0, 0, 0]), np.array([0.0, 1, 1, 1, 0]) / 3],
        [np.array([0.0, 1, 1, 1, 0]), np.array([1.0, 0, 0, 0, 0])],
    ),
    Kink(
        "norm at zero",
        lambda a: jnp.linalg.norm(a),
        zeros,
        [0 * C, C / 4, np.eye(4)[1]],
        [C / 2, np.ones(4), np.eye(4)[1] * 1.1],
    ),
    Kink(
        "square root of a relu",
        lambda a: jnp.sum(jnp.sqrt(jax.nn.relu(a))),
        np.array([0.0, 1, -1, 4]),
        [np.array([0, 0.5, 0, 0.25])],
        [np.array([-1, 0.5, 0, 0.25]), np.array([0, 0.5, 1, 0.25])],
    ),
    Kink(
        "penalised logistic loss",
        lambda w: jnp.mean(jnp.logaddexp(0, X @ w)) + 0.1 * jnp.sum(jnp.abs(w)),
        np.zeros(3),
        [X.mean(0) / 2, X.mean(0) / 2 + 0.1, X.mean(0) / 2 - 0.05],
        [X.mean(0) / 2 + 0.2, X.mean(0) + 1],
    ),
    Kink(
        "distance to the nearest of two",
        lambda a: jnp.minimum(jnp.sum((a - 1) ** 2), jnp.sum((a + 1) ** 2)),
        zeros,
        [0 * C - 2, 0 * C + 2, 0 * C],
        [0 * C + 3, C],
    ),
]
FAST = ("maximum of one tie", "pools of equal entries, deltas of either sign")


def marked(kinks):
    return [pytest.param(k, id=str(k), marks=[] if k.name in FAST else pytest.mark.slow) for k in kinks]


@pytest.mark.slow
@pytest.mark.parametrize("kink", marked(KINKS))
def test_slopes_between_those_of_both_sides(kink):
    for gradient in kink.right:
        report = check_gradient(lambda p, gradient=gradient: gradient, kink.loss, kink.at)
        assert report.passed, f"{gradient}\n{report}"
    for gradient in kink.wrong:
        report = check_gradient(lambda p, gradient=gradient: gradient, kink.loss, kink.at)
        assert not report.passed, f"{gradient}\n{report}"


@pytest.mark.parametrize("kink", marked(KINKS))
def test_autodiffs_own_choice_passes(kink, float64):
    report = check_gradient(lambda p: jax.grad(kink.loss)(p), kink.loss, kink.at)
    assert report.passed == (kink.name != "norm at zero"), str(report)


# A relu net whose units are all at 0: everybody's relu'(0) = 0 is not between the slopes of both sides, and no mistake.


def net_loss(p, x, t):
    return jnp.sum((jnp.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"] - t) ** 2) / 2


def net_gradient(slope_at_zero):
    def gradient(p, x, t):
        z = x @ p["w1"] + p["b1"]
        dy = np.maximum(z, 0) @ p["w2"] - t
        dz = dy @ p["w2"].T * np.where(z > 0, 1, np.where(z == 0, slope_at_zero, 0))
        return {"w1": x.T @ dz, "b1": dz.sum(0), "w2": np.maximum(z, 0).T @ dy}

    return gradient


AT_ZERO = {"w1": np.zeros((3, 5)), "b1": np.zeros(5), "w2": rng.normal(size=(5, 2))}


SLOPES = [
    (0.0, True),
    (2.0, False),
    *(pytest.param(*row, marks=pytest.mark.slow) for row in ((0.5, True), (1.0, True), (-0.3, False))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("slope", "right"), SLOPES)
def test_a_net_whose_units_are_all_at_zero(slope, right):
    report = check_gradient(net_gradient(slope), net_loss, AT_ZERO, X, rng.normal(size=(6, 2)))
    assert report.passed == right, str(report)


# Verdicts.


def relu_at(point):
    return check_gradient(lambda a: 0 * a, lambda a: jnp.sum(jnp.maximum(a, 0)), np.asarray(point))


def test_a_leaf_of_nothing_but_kinks_is_not_checked():
    report = relu_at([0.0, 0.0])
    assert report.passed
    assert report.verdict == report.leaves[0].verdict == "not checked"
    assert report.exit_status == 2
    assert str(report).startswith("gradient check of <lambda>: not checked, 0 of 1 leaves right")
    assert relu_at([0.0, -1.0]).verdict == "pass"
    assert relu_at([0.0, 1.0]).exit_status == 1


def test_the_bounds_are_shown():
    text = str(check_gradient(lambda a: 2.0 + a, lambda a: jnp.sum(jnp.maximum(a, 0)), np.zeros(3)))
    assert "at (0,) the slope must lie between 0 and 1, and it is 2" in text
    text = str(check_gradient(lambda a: both, jnp.max, zeros))
    assert "along all of its 4 bent entries the slope must lie between 1 and 1, and it is 2" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("numpy", [True, False])
def test_a_loss_that_is_not_finite_is_refused(value, numpy):
    loss = lambda a: np.sum(np.asarray(a)) * 0 + value if numpy else jnp.sum(a) * 0 + value
    with pytest.raises(InputError, match=r"the loss of ones_like is -?(nan|inf) at this point"):
        check_gradient(np.ones_like, loss, np.ones(3))


def test_an_output_that_is_not_finite_is_left_to_autodiff():
    masked = lambda a: jax.nn.log_softmax(jnp.where(jnp.arange(4) < 2, a, -jnp.inf))
    assert check_function(masked, C).passed


# NumPy code, which has no autodiff to compare with.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["abs", "maximum of one tie", "sort at ties", "hinge at its margin"])
def test_kinks_of_numpy_code(name):
    losses = {
        "abs": lambda a: np.sum(C * np.abs(np.asarray(a))),
        "maximum of one tie": lambda a: np.max(np.asarray(a)),
        "sort at ties": lambda a: np.sum(np.arange(4.0) * np.sort(np.asarray(a))),
        "hinge at its margin": lambda a: np.sum(UP[0] * np.maximum(1 - np.asarray(a), 0)),
    }
    kink = next(k for k in KINKS if k.name == name)
    for gradients, right in ((kink.right, True), (kink.wrong, False)):
        for gradient in gradients:
            report = check_gradient(lambda a, gradient=gradient: gradient, losses[name], kink.at)
            assert report.passed == right, f"{gradient}\n{report}"


# Differences.


def test_steps_go_down_until_no_kink_is_crossed():
    """Two thousand units that bend within 1e-5 of the point: the larger steps cross them."""
    offsets = np.abs(rng.normal(size=2000)) * 1e-5 + 1e-7
    loss = lambda a: jnp.sum(jnp.maximum(a - offsets, 0) * np.cos(np.arange(2000))) + a**2
    assert check_gradient(lambda a: 2 * a, loss, np.array(0.5) * 0).passed
    assert not check_gradient(lambda a: 2 * a + 1e-3, loss, np.array(0.5) * 0).passed


LINES = {
    "smooth": (math.sin, 1.0, 1.0),
    "far from linear": (lambda h: math.exp(3 * h) + 5 * h * h, 3.0, 3.0),
    "kink": (abs, -1.0, 1.0),
    "kink and curvature": (lambda h: max(h, -2 * h) + 7 * h * h, -2.0, 1.0),
    "kink nearby": (lambda h: max(h - 3e-6, 0.0) + 2 * h, 2.0, 2.0),
    "edge of the domain": (lambda h: h**1.5 + h if h >= 0 else math.nan, 1.0, 1.0),
    "a jump behind": (lambda h: 2 * h if h >= 0 else -1.0, 2.0, 2.0),
    "a root on one side": (lambda h: math.sqrt(max(h, 0.0)), 0.0, math.inf),
    "x log x on one side": (lambda h: h * math.log(h) if h > 0 else 0.0, 0.0, -math.inf),
    "a large value": (lambda h: 1e6 + abs(h) + math.sin(h), 0.0, 2.0),
}


@pytest.mark.parametrize("name", LINES)
def test_both_sides_of_a_point(name):
    line, behind, ahead = LINES[name]
    slope = thorough(line, 1.0)
    close = lambda v, expected: v == expected or abs(v - expected) <= 3 * slope.error + 1e-9
    assert close(slope.behind, behind), slope
    assert close(slope.ahead, ahead), slope
    assert slope.error <= 1e-2


@pytest.mark.parametrize(
    "line", [lambda h: math.nan, lambda h: math.copysign(abs(h) ** (1 / 3), h), lambda h: 1 / h if h else 0]
)
def test_where_differences_do_not_tell(line):
    with np.errstate(all="ignore"):
        assert thorough(line, 1.0) is UNKNOWN
