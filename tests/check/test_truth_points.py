"""Points where autodiff is wrong or not finite and the function is smooth: the differences decide.

Every row has a loss, the parameters and the right gradient. Wrong ones fail, and autodiff's own is one of them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import Cause, check_gradient

rng = np.random.default_rng(5)
X, T = rng.normal(size=(7, 2)), rng.integers(0, 2, 7) * 1.0
C = np.array([1.0, -2.0, 0.5, 3.0])
ZEROS = np.zeros(2)


@dataclass(frozen=True)
class Point:
    """loss(a) and its gradient at `at`. names: words of the operation that makes autodiff wrong."""

    name: str
    loss: object
    at: np.ndarray
    right: np.ndarray
    names: str = ""

    def __str__(self):
        return self.name


def logistic(name, item, names=""):
    """The mean of item(z, t) over the examples, with all weights zero."""
    right = X.T @ (0.5 - T) / len(T)
    return Point(f"logistic {name}", lambda w: jnp.mean(item(X @ w, T)), ZEROS, right, names)


log1p_exp = lambda z: jnp.log1p(jnp.exp(-jnp.abs(z)))
safe = lambda a: jnp.where(a > 0, a, 1.0)
INSIDE = np.array([0.5, -1.5, 2.0, -3.0])
MASKED = np.array([0.3, -np.inf, 0.1, -np.inf])
softmax = lambda z: np.exp(z - np.max(z)) / np.sum(np.exp(z - np.max(z)))
NEAR = np.array([1.0, 1.0 + 1e-5, 0.5, 0.2])

POINTS = [
    logistic("maximum and abs", lambda z, t: jnp.maximum(z, 0) - z * t + log1p_exp(z), "'abs'"),
    logistic("relu and abs", lambda z, t: jax.nn.relu(z) - z * t + log1p_exp(z), "'relu'"),
    logistic("clip and abs", lambda z, t: jnp.clip(z, 0) - z * t + log1p_exp(z), "is at a tie"),
    logistic("where", lambda z, t: jnp.where(z > 0, z, 0) - z * t + log1p_exp(z), "is at a tie"),
    logistic("minimum", lambda z, t: -jnp.minimum(z, 0) + z * (1 - t) + log1p_exp(z), "'abs'"),
    logistic("sigmoid", lambda z, t: -t * jnp.log(jax.nn.sigmoid(z)) - (1 - t) * jnp.log(jax.nn.sigmoid(-z))),
    logistic("logaddexp", lambda z, t: jnp.logaddexp(0, z) - z * t),
    logistic("softplus", lambda z, t: jax.nn.softplus(z) - z * t),
    Point(
        "maximum of a and -a, less abs",
        lambda a: jnp.sum(jnp.maximum(a, -a) - jnp.abs(a) + C * a),
        np.zeros(4),
        C,
        "'abs'",
    ),
    Point("abs times abs", lambda a: jnp.sum(jnp.abs(a) * jnp.abs(a) + C * a), np.zeros(4), C),
    Point("relu less relu", lambda a: jnp.sum(C * (jax.nn.relu(a) - jax.nn.relu(-a))), np.zeros(4), C, "'relu'"),
    Point("norm squared", lambda a: jnp.linalg.norm(a) ** 2 + jnp.sum(C * a), np.zeros(4), C, "'sqrt'"),
    Point(
        "norms squared by row",
        lambda a: jnp.sum(jnp.linalg.norm(a, axis=1) ** 2 + a[:, 0]),
        np.array([[0.0, 0], [1, 2]]),
        np.array([[1.0, 0], [3, 4]]),
        "'sqrt'",
    ),
    Point(
        "sqrt of the square of a sum, squared",
        lambda a: jnp.sqrt(jnp.sum(a) ** 2) ** 2 + jnp.sum(C * a),
        np.zeros(4),
        C,
        "'sqrt'",
    ),
    Point(
        "normalised to the power 4",
        lambda a: jnp.sum(a * a) ** 0.5 * jnp.sum(a * a) ** 1.5 + jnp.sum(C * a),
        np.zeros(4),
        C,
        "'pow'",
    ),
    Point(
        "huber of a norm",
        lambda a: (lambda r: jnp.where(r < 1, r * r / 2, r - 0.5))(jnp.linalg.norm(a)) + jnp.sum(C * a),
        np.zeros(4),
        C,
        "'sqrt'",
    ),
    Point(
        "sqrt behind where",
        lambda a: jnp.sum(C * jnp.where(a > 0, jnp.sqrt(a), 0.0)),
        INSIDE,
        np.where(INSIDE > 0, C / (2 * np.sqrt(np.abs(INSIDE))), 0),
        "'sqrt'",
    ),
    Point(
        "log behind where",
        lambda a: jnp.sum(C * jnp.where(a > 0, jnp.log(a), -1.0)),
        np.where(INSIDE > 0, INSIDE, 0.0) - (INSIDE < 0),
        np.where(INSIDE > 0, C / np.abs(INSIDE), 0),
    ),
    Point(
        "double where",
        lambda a: jnp.sum(C * jnp.where(a > 0, jnp.sqrt(safe(a)), 0.0)),
        INSIDE,
        np.where(INSIDE > 0, C / (2 * np.sqrt(np.abs(INSIDE))), 0),
    ),
    Point(
        "arccos behind where",
        lambda a: jnp.sum(C * jnp.where(jnp.abs(a) < 1, jnp.arccos(a), 0.0)),
        INSIDE,
        np.where(np.abs(INSIDE) < 1, -C / np.sqrt(np.abs(1 - INSIDE**2)), 0),
    ),
    Point(
        "quotient behind where",
        lambda a: jnp.sum(C * jnp.where(a == 0, 1.0, jnp.sin(a) / a)),
        np.zeros(4),
        np.zeros(4),
        "'div'",
    ),
    Point(
        "logsumexp with masks",
        lambda a: jax.nn.logsumexp(jnp.where(jnp.isinf(MASKED), -jnp.inf, a)),
        np.array([0.3, 2.0, 0.1, -1.0]),
        softmax(MASKED),
    ),
    Point(
        "log of a masked softmax",
        lambda a: (lambda p: -jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0)))(
            jax.nn.softmax(jnp.where(jnp.isinf(MASKED), -jnp.inf, a))
        ),
        np.array([0.3, 2.0, 0.1, -1.0]),
        (
            lambda p: np.where(
                p > 0, -p * (np.log(np.where(p > 0, p, 1)) - np.sum(p * np.log(np.where(p > 0, p, 1)))), 0
            )
        )(softmax(MASKED)),
        "'log'",
    ),
    Point("square as a power", lambda a: jnp.sum(C * jnp.power(jnp.abs(a), 2.0) + a), np.zeros(4), np.ones(4)),
    Point(
        "power of a base at zero",
        lambda a: jnp.sum(C * a ** jnp.array([2.0, 3.0, 2.5, 4.0])),
        np.array([0.0, 0.0, 0.0, 1.0]),
        np.array([0.0, 0.0, 0.0, 12.0]),
    ),
    Point(
        "atan2 by its radius",
        lambda a: jnp.sqrt(a[0] ** 2 + a[1] ** 2) ** 2 * jnp.arctan2(1.0, 2.0),
        ZEROS,
        ZEROS,
        "'sqrt'",
    ),
    Point(
        "atan2 on its cut",
        lambda a: a[0] * jnp.arctan2(a[1], 1.0) + jnp.arctan2(a[1], a[0]),
        np.array([-2.0, 0.0]),
        np.array([0.0, -2.5]),
    ),
    Point("maximum near a tie", lambda a: jnp.max(a), NEAR, np.eye(4)[1]),
    Point("sort near a tie", lambda a: jnp.sum(C * jnp.sort(a)), NEAR, C[np.argsort(np.argsort(NEAR))]),
    Point(
        "cumulative maximum near a tie",
        lambda a: jnp.sum(C * jax.lax.cummax(a)),
        NEAR,
        np.array([C[0], C[1:].sum(), 0, 0]),
    ),
    Point(
        "clip near its bound",
        lambda a: jnp.sum(C * jnp.clip(a, -1, 1)),
        np.array([1 - 1e-6, 1 + 1e-6, -1 + 1e-6, 0]),
        C * [1, 0, 1, 1],
    ),
    Point(
        "x log x behind where",
        lambda a: jnp.sum(C * jnp.where(a > 0, a * jnp.log(a), 0)),
        INSIDE,
        np.where(INSIDE > 0, C * (np.log(np.abs(INSIDE)) + 1), 0),
    ),
    Point(
        "x squared log x at zero",
        lambda a: jnp.sum(C * jnp.where(a == 0, 0, a**2 * jnp.log(jnp.abs(a)))),
        np.array([0.0, 0.0, 1.0, 2.0]),
        np.where(
            np.arange(4) < 2,
            0,
            C * (2 * np.array([1, 1, 1, 2]) * np.log(np.array([1, 1, 1, 2])) + np.array([1, 1, 1, 2])),
        ),
    ),
]


FAST = ("logistic relu and abs", "norm squared")
MARKED = [pytest.param(p, id=str(p), marks=[] if p.name in FAST else pytest.mark.slow) for p in POINTS]


@pytest.mark.parametrize("point", MARKED)
def test_the_right_gradient_passes(point):
    report = check_gradient(lambda a: point.right, point.loss, point.at)
    assert report.passed, str(report)
    assert report.verdict == "pass", str(report)


@pytest.mark.slow
@pytest.mark.parametrize("point", MARKED)
def test_wrong_ones_fail(point, float64):
    auto = jax.grad(point.loss)(jnp.asarray(point.at))
    tilted = point.right + 1e-3 * np.max(np.abs(point.right) + 1) * np.eye(1, point.right.size).reshape(
        point.right.shape
    )
    assert not check_gradient(lambda a: tilted, point.loss, point.at).passed
    assert not check_gradient(lambda a: np.full(point.right.shape, 99.0), point.loss, point.at).passed
    report = check_gradient(lambda a: jax.grad(point.loss)(a), point.loss, point.at)
    right = np.allclose(auto, point.right, rtol=1e-6, atol=1e-9)
    assert report.passed == bool(right), (auto, point.right, str(report))
    assert ("autodiff of the loss is wrong here" in str(report)) != bool(right)
    assert point.names in str(report), str(report)
    if not right and np.all(np.isfinite(auto)):
        assert report.leaves[0].causes[0].cause is Cause.AUTODIFF
