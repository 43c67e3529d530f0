"""At a kink every slope between those of the two sides is right, and no other: along each entry and along several."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient

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
FAST = ("maximum of one tie", "pools of equal entries, deltas of either sign", "maximum of two leaves that are equal")


def marked(kinks):
    return [pytest.param(k, id=str(k), marks=[] if k.name in FAST else pytest.mark.slow) for k in kinks]


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
