"""Gradients at points that are hard on purpose: zeros, ties, bounds, equal rows, infinite masks, tiny and huge scales.

    python -m proofs.hard_points [--points=WORD]

Prints how many right gradients fail (none should) and how many wrong ones pass (none should). At a smooth point one
gradient is right, whatever autodiff says there. At a kink <g, v> has to lie between the one-sided slopes along every v.
Functions of entries are `f(xp, a)`, and both `jax.numpy` and `numpy` are used as xp.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbp.check import check_gradient
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.errors import InputError
from jaxbp.typed import Typed

Function = Callable[[Any, Any], Any]  # f(xp, a)


@dataclass(frozen=True)
class Point:
    """A loss of one array, where it is taken, and gradients there that are right and that are wrong."""

    name: str
    loss: Callable[[Any], Any]
    a: np.ndarray
    right: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]
    near: float = 1e-6  # up to this distance the loss has the slopes that it has at the point

    def outcome(self, gradient: np.ndarray) -> str:
        """What the check says of a gradient: "pass", "FAIL", or why it refused."""
        try:
            report = check_gradient(lambda p: {"a": gradient.copy()}, lambda p: self.loss(p["a"]), {"a": self.a})
        except InputError as error:
            return f"refused: {error}"
        return "FAIL" if any(leaf.verdict == "FAIL" for leaf in report.leaves) else "pass"


# Smooth functions of each entry, with their derivatives. Autodiff is wrong, or not finite, for many of them.

sigmoid = lambda a: 0.5 * (1 + np.tanh(a / 2))
positive = lambda xp, a: xp.where(a > 0, a, 1.0)
nonzero = lambda xp, a: xp.where(a == 0, 1.0, a)
SMOOTH: dict[str, tuple[Function, Callable]] = {
    "log(1 + e^z) by maximum": (lambda xp, a: xp.maximum(a, 0) + xp.log1p(xp.exp(-xp.abs(a))), sigmoid),
    "log(1 + e^z) by where": (lambda xp, a: xp.where(a > 0, a, 0) + xp.log1p(xp.exp(xp.where(a > 0, -a, a))), sigmoid),
    "log(1 + e^z) by logaddexp": (lambda xp, a: xp.logaddexp(a, 0.0), sigmoid),
    "log(1 + e^z) by clip": (lambda xp, a: xp.clip(a, 0, None) + xp.log1p(xp.exp(-xp.abs(a))), sigmoid),
    "log(1 + e^z) by a mean": (lambda xp, a: (a + xp.abs(a)) / 2 + xp.log1p(xp.exp(-xp.abs(a))), sigmoid),
    "square of abs": (lambda xp, a: xp.abs(a) ** 2, lambda a: 2 * a),
    "square of a square root": (lambda xp, a: xp.sqrt(a * a) ** 2, lambda a: 2 * a),
    "square of relu": (lambda xp, a: xp.maximum(a, 0) ** 2, lambda a: 2 * np.maximum(a, 0)),
    "z |z|": (lambda xp, a: a * xp.abs(a), lambda a: 2 * np.abs(a)),
    "|z|^1.5": (lambda xp, a: xp.abs(a) ** 1.5, lambda a: 1.5 * np.sign(a) * np.sqrt(np.abs(a))),
    "z^2.0": (lambda xp, a: a**2.0, lambda a: 2 * a),
    "z^3 as a power": (lambda xp, a: xp.power(a, 3.0), lambda a: 3 * a * a),
    "huber": (lambda xp, a: xp.where(xp.abs(a) <= 1, a * a / 2, xp.abs(a) - 0.5), lambda a: np.clip(a, -1, 1)),
    "elu": (lambda xp, a: xp.where(a > 0, a, xp.expm1(xp.minimum(a, 0))), lambda a: np.exp(np.minimum(a, 0))),
    "z / (1 + |z|)": (lambda xp, a: a / (1 + xp.abs(a)), lambda a: 1 / (1 + np.abs(a)) ** 2),
    "sin z / z": (
        lambda xp, a: xp.where(a == 0, 1.0, xp.sin(a) / nonzero(xp, a)),
        lambda a: np.where(np.abs(a) < 1e-4, -a / 3, (np.cos(a) - np.sin(a) / nonzero(np, a)) / nonzero(np, a)),
    ),
    "z^2 log |z|": (
        lambda xp, a: xp.where(a == 0, 0.0, a * a * xp.log(xp.abs(nonzero(xp, a)))),
        lambda a: np.where(a == 0, 0.0, 2 * a * np.log(np.abs(nonzero(np, a))) + a),
    ),
    "product of square roots": (lambda xp, a: xp.sqrt(a * a + 0.0) * xp.sqrt(a * a), lambda a: 2 * a),
    "atan2(z, 1)": (lambda xp, a: xp.arctan2(a, xp.ones_like(a)), lambda a: 1 / (1 + a * a)),
    "tanh": (lambda xp, a: xp.tanh(a), lambda a: 1 / np.cosh(np.clip(a, -350, 350)) ** 2),
    "gelu by sigmoid": (
        lambda xp, a: a / (1 + xp.exp(-1.702 * xp.clip(a, -300, 300))),
        lambda a: (s := sigmoid(1.702 * np.clip(a, -300, 300))) + 1.702 * a * s * (1 - s) * (np.abs(a) < 300),
    ),
}
# The same, where autodiff meets a branch that is not taken: it must keep off zero.
BRANCHES: dict[str, tuple[Function, Callable]] = {
    "where(z > 0, sqrt z, 0)": (
        lambda xp, a: xp.where(a > 0, xp.sqrt(xp.abs(xp.maximum(a, 0))), 0.0),
        lambda a: np.where(a > 0, 0.5 / np.sqrt(positive(np, a)), 0),
    ),
    "sqrt(relu)": (
        lambda xp, a: xp.sqrt(xp.maximum(a, 0)),
        lambda a: np.where(a > 0, 0.5 / np.sqrt(positive(np, a)), 0),
    ),
    "where(z > 0, z log z, 0)": (
        lambda xp, a: xp.where(a > 0, a * xp.log(positive(xp, a)), 0.0),
        lambda a: np.where(a > 0, np.log(positive(np, a)) + 1, 0),
    ),
    "relu^1.5": (lambda xp, a: xp.maximum(a, 0) ** 1.5, lambda a: 1.5 * np.sqrt(np.maximum(a, 0))),
    "round(z) z": (lambda xp, a: xp.round(a) * a, np.round),
    "z mod 1": (lambda xp, a: a - xp.floor(a), np.ones_like),
}
ENTRIES = {
    "zeros": np.zeros(4),
    "zeros and others": np.array([0.0, 1.0, -0.7, 0.0, 2.3]),
    "tiny": np.array([3e-7, -2e-7, 0.0, 5e-8]),
    "large": np.array([40.0, -35.0, 0.0, 1.0, -1.0]),
    "a matrix": np.array([[0.0, -1.0, 1.0], [1.0, 0.0, 0.3]]),
}
OFF_ZERO = {
    "off zero": np.array([0.4, -1.2, 2.2, 0.7, -3.1]),
    "below zero": np.array([-0.6, -1.3, -2.7]),
    "large": np.array([31.3, -22.2, 7.1]),
}
SCALES = (1.0, 1e-9, 1.0, 1e9, 1.0)
MODULES = (jnp, jnp, np)


def planted(right: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
    """Two wrong gradients: one entry off by a thousandth of the largest, and a mistake in all entries."""
    top = np.abs(right).max() or 1.0
    off = right.copy()
    off.flat[number % right.size] += 1e-3 * top
    if not right.any():
        return off, right + top
    return off, (right * 1.01, -right, right * 2, right + 0.1 * top)[number % 4]


def smooth() -> Iterator[Point]:
    """Every smooth function at every point, with weights of both signs, at several scales."""
    tables = [(name, pair, ENTRIES) for name, pair in SMOOTH.items()]
    tables += [(name, pair, OFF_ZERO) for name, pair in BRANCHES.items()]
    number = 0
    for name, (f, slope), points in tables:
        for where, a in points.items():
            xp, scale = MODULES[number % 3], SCALES[number % 5]
            c = scale * np.linspace(-0.8, 1.3, a.size).reshape(a.shape)
            label = f"{name}, {where}, times {scale:.0e}, {xp.__name__}"
            right = c * slope(a)
            near = 1e-10 if where == "tiny" else 1e-9 if "1.5" in name else 1e-6
            yield Point(label, weighted(f, xp, c), a, (right,), planted(right, number), near)
            number += 1


def weighted(f: Function, xp: ModuleType, c: np.ndarray) -> Callable[[Any], Any]:
    """sum(c f(a))."""
    return lambda a: xp.sum(c * f(xp, a))


# Smooth functions of a whole array, with the gradient.

X = np.array([0.3, -1.0, 0.6])
MASK = np.array([[0.0, 0.0, -np.inf, 0.0], [0.0, -np.inf, -np.inf, 0.0], [-np.inf, 0.0, 0.0, 0.0]])
SCORES = np.array([[1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [300.0, 300.0, 299.0, -300.0]])
SINGULAR = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 1.0, -1.0]])


def softmax(a: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def lse(xp: Any, a: Any) -> Any:
    """log sum exp along the last axis, shifted by the largest."""
    top = xp.max(a, axis=-1, keepdims=True)
    return xp.sum(top[..., 0] + xp.log(xp.sum(xp.exp(a - top), axis=-1)))


def products_of_others(a: np.ndarray) -> np.ndarray:
    return np.array([np.prod(np.delete(a, i)) for i in range(a.size)])


def cofactors(a: np.ndarray) -> np.ndarray:
    minor = lambda i, j: np.linalg.det(np.delete(np.delete(a, i, 0), j, 1))
    return np.array([[(-1) ** (i + j) * minor(i, j) for j in range(len(a))] for i in range(len(a))])


def distances(xp: Any, a: Any) -> Any:
    """Squared distances of all pairs, each as the square of a norm."""
    gaps = a[:, None, :] - a[None, :, :]
    return xp.sum(xp.sqrt(xp.sum(gaps**2, axis=-1)) ** 2) / 2


WHOLE: list[tuple[str, Function, Callable, list[np.ndarray]]] = [
    ("norm squared", lambda xp, a: xp.linalg.norm(a) ** 2 + xp.sum(a * X), lambda a: 2 * a + X, [X * 0, X, 1e-8 * X]),
    (
        "norms of rows squared",
        lambda xp, a: xp.sum(xp.linalg.norm(a, axis=1) ** 2) + xp.sum(a @ X),
        lambda a: 2 * a + X,
        [np.zeros((2, 3)), np.stack([X, X * 0]), np.stack([X, X])],
    ),
    ("distances of pairs", distances, lambda a: 2 * len(a) * (a - a.mean(0)), [np.zeros((3, 2)), np.ones((2, 2))]),
    (
        "variance as std squared",
        lambda xp, a: xp.std(a) ** 2,
        lambda a: 2 * (a - a.mean()) / a.size,
        [X * 0, X * 0 + 5],
    ),
    (
        "sum of sorted squares",
        lambda xp, a: xp.sum(xp.sort(a) ** 2),
        lambda a: 2 * a,
        [np.ones(4), np.array([2.0, 1, 2])],
    ),
    ("log sum exp", lse, softmax, [SCORES, SCORES * 0, SCORES * 1e-8]),
    ("log sum exp under a mask", lambda xp, a: lse(xp, a + MASK), lambda a: softmax(a + MASK), [SCORES, SCORES * 0]),
    (
        "log sum exp under where",
        lambda xp, a: lse(xp, xp.where(MASK < 0, -np.inf, a)),
        lambda a: softmax(a + MASK),
        [SCORES, SCORES * 1e-3],
    ),
    (
        "sum of a squared softmax",
        lambda xp, a: xp.sum(xp.square(xp.exp(a - xp.max(a)) / xp.sum(xp.exp(a - xp.max(a))))),
        lambda a: 2 * (s := softmax(a)) * (s - np.sum(s * s)),
        [X, X * 0, np.array([2.0, 2.0, 2.0, -1.0]), np.array([9.0, 9.0, 0.0])],
    ),
    (
        "product",
        lambda xp, a: xp.prod(a),
        products_of_others,
        [np.array([0.0, 2, 3]), np.array([0.0, 0, 3]), np.zeros(3)],
    ),
    ("determinant", lambda xp, a: xp.linalg.det(a), cofactors, [SINGULAR, np.eye(3), np.diag([1.0, 0, 2])]),
    (
        "eigenvalues squared",
        lambda xp, a: xp.sum(xp.linalg.eigvalsh((a + a.T) / 2) ** 2),
        lambda a: a + a.T,
        [np.eye(3), np.diag([1.0, 1.0, 2.0]), SINGULAR],
    ),
    (
        "division under where",
        lambda xp, a: xp.sum(xp.where(np.arange(4) > 0, a / xp.arange(4.0), 0.0) ** 2),
        lambda a: 2 * a * np.array([0, 1, 1 / 4, 1 / 9]),
        [np.ones(4), np.array([1.0, 0, -2, 0])],
    ),
    (
        "layer norm of equal entries",
        lambda xp, a: xp.sum(X * (a - xp.mean(a)) / xp.sqrt(xp.var(a) + 1e-2)),
        lambda a: (X - X.mean()) / 0.1,
        [np.zeros(3), np.full(3, 4.0)],
    ),
]


def whole() -> Iterator[Point]:
    """Every smooth function of a whole array."""
    for name, f, slope, points in WHOLE:
        for number, a in enumerate(points):
            xp = (jnp, jnp, np)[number % 3] if name != "division under where" else jnp
            right = slope(a)
            yield Point(
                f"{name}, {number}, {xp.__name__}", lambda a, f=f, xp=xp: f(xp, a), a, (right,), planted(right, number)
            )


# Kinks: all of them convex, or all concave, so that every mixture of the pieces' gradients is right.

KINKS: dict[str, tuple[Function, np.ndarray, list[float]]] = {  # of each entry: at a kink, with its two slopes
    "relu": (lambda xp, a: xp.maximum(a, 0), np.zeros(3), [0, 1]),
    "abs": (lambda xp, a: xp.abs(a), np.zeros(4), [-1, 1]),
    "leaky relu": (lambda xp, a: xp.where(a > 0, a, 0.1 * a), np.zeros(3), [0.1, 1]),
    "clip, above": (lambda xp, a: xp.clip(a, -1, 1), np.ones(3), [0, 1]),
    "clip, below": (lambda xp, a: xp.clip(a, -1, 1), -np.ones(2), [0, 1]),
    "hinge": (lambda xp, a: xp.maximum(0, 1 - a), np.ones(4), [-1, 0]),
    "pinball": (lambda xp, a: xp.maximum(0.9 * a, -0.1 * a), np.zeros(3), [-0.1, 0.9]),
    "insensitive": (lambda xp, a: xp.maximum(xp.abs(a) - 0.5, 0), np.full(3, 0.5), [0, 1]),
    "hard sigmoid": (lambda xp, a: xp.clip(a / 6 + 0.5, 0, 1), np.full(3, 3.0), [0, 1 / 6]),
    "relu - z": (lambda xp, a: xp.maximum(a, 0) - a, np.zeros((2, 2)), [-1, 0]),
}
PIECES: list[tuple[str, Function, np.ndarray, list]] = [  # of a whole array: the gradients of the pieces that meet
    ("max of two", lambda xp, a: xp.max(a), np.array([2.0, 2, 1]), [[1, 0, 0], [0, 1, 0]]),
    ("max of three", lambda xp, a: xp.max(a), np.array([2.0, 2, 2]), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ("min of two", lambda xp, a: xp.min(a), np.array([-1.0, 3, -1]), [[1, 0, 0], [0, 0, 1]]),
    ("max of zeros", lambda xp, a: xp.max(a), np.zeros(4), [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]),
    ("maxima of rows", lambda xp, a: xp.sum(xp.max(a, axis=1)), np.ones((2, 2)), [[[1, 0], [1, 0]], [[0, 1], [1, 0]]]),
    ("|difference|", lambda xp, a: xp.abs(a[0] - a[1]), np.array([3.0, 3]), [[1, -1], [-1, 1]]),
    ("range", lambda xp, a: xp.max(a) - xp.min(a), np.array([2.0, 2, 0]), [[1, 0, -1], [0, 1, -1]]),
    ("weighted sort", lambda xp, a: xp.sort(a) @ np.arange(1.0, 4), np.array([5.0, 1, 5]), [[2, 1, 3], [3, 1, 2]]),
    ("upper median", lambda xp, a: xp.sort(a)[2], np.array([4.0, 1, 7]), [[0, 0, 1]]),
    ("l1 norm", lambda xp, a: xp.sum(xp.abs(a)), np.array([0.0, 2, 0]), [[1, 1, 1], [-1, 1, -1], [1, 1, -1]]),
    ("max norm", lambda xp, a: xp.max(xp.abs(a)), np.array([-2.0, 2, 1]), [[-1, 0, 0], [0, 1, 0]]),
    ("norm", lambda xp, a: xp.linalg.norm(a), np.zeros(3), [[1, 0, 0], [0, -1, 0], [0.6, 0, 0.8]]),
    ("deviation", lambda xp, a: xp.sum(xp.abs(a - 1)), np.array([1.0, 0]), [[1, -1], [-1, -1]]),
    ("cumulative maxima", lambda xp, a: maxima(xp, a), np.array([1.0, 3, 3, 2]), [[1, 3, 0, 0], [1, 1, 2, 0]]),
    ("rows of relu", lambda xp, a: xp.sum(xp.maximum(ROWS @ a, 0)), np.zeros(2), [[2.5, 1.5], [0, 0]]),
    ("hinge of classes", lambda xp, a: hinge(xp, a), np.array([2.0, 1, 0]), [[0, 0, 0], [-1, 1, 0]]),
    ("pool", lambda xp, a: xp.max(a[:2]) + xp.max(a[1:]), np.array([1.0, 1, 1]), [[1, 1, 0], [0, 2, 0], [0, 1, 1]]),
]
ROWS = np.array([[1.0, 0.5], [0.5, 0.5], [1.0, 0.5]])


def maxima(xp: Any, a: Any) -> Any:
    """The sum of the cumulative maxima."""
    return xp.sum(xp.stack([xp.max(a[: i + 1]) for i in range(len(a))]))


def hinge(xp: Any, a: Any) -> Any:
    """The multi-class hinge loss of scores whose class is the first."""
    return xp.sum(xp.maximum(a[1:] - a[0] + 1, 0))


def kinks(modules: tuple[ModuleType, ...] = (jnp, np)) -> Iterator[Point]:
    """Right: a piece, a mixture. Wrong: half a step outside a piece, the sum of pieces, far away."""
    for number, (name, (f, a, (low, high))) in enumerate(KINKS.items()):
        for scale in (1.0, 1e-6, 1e6):
            xp = modules[number % len(modules)]
            c = scale * np.linspace(0.5, 1.5, a.size).reshape(a.shape)
            right = tuple(c * slope for slope in (low, high, 0.7 * low + 0.3 * high))
            wrong = tuple(c * slope for slope in (high + 0.1 * (high - low), low - 0.5 * (high - low), 99))
            yield Point(f"{name}, times {scale:.0e}, {xp.__name__}", weighted(f, xp, c), a, right[:2], wrong)
    for number, (name, f, a, pieces) in enumerate(PIECES):
        xp = modules[number % len(modules)]
        arrays = [np.asarray(piece, float) for piece in pieces]
        mean = sum(arrays) / len(arrays)
        apart = arrays[0] - arrays[-1] if len(arrays) > 1 else arrays[0]
        wrong = [arrays[0] + 0.3 * apart, mean + (arrays[0] != 0) + 0.2, mean + 99]
        if name not in {"l1 norm", "norm", "rows of relu", "hinge of classes"}:
            wrong += [np.zeros_like(a)] if mean.any() else []
        yield Point(f"{name}, {xp.__name__}", lambda a, f=f, xp=xp: f(xp, a), a, (*arrays, mean), tuple(wrong))


def near_ties() -> Iterator[Point]:
    """So near a tie that differences cross it: the winner takes all."""
    for gap in (1e-4, 1e-7, 1e-10):
        a = np.array([1.0, 1.0 + gap, 0.5])
        winner = np.array([0.0, 1, 0])
        wrong = (np.zeros(3), np.array([1.0, 1, 0]), np.array([0.0, 1, 0.3]))
        yield Point(f"max, {gap:.0e} from a tie", jnp.max, a, (winner,), wrong, gap / 10)
        of_sort = np.array([1.0, 2.0, 0.0]) + 1
        yield Point(
            f"weighted sort, {gap:.0e} from a tie", lambda a: jnp.sort(a) @ jnp.arange(1.0, 4), a,
            (of_sort,), (of_sort * 1.1, np.array([3.0, 3, 1])), gap / 10,
        )  # fmt: skip
        b = np.array([gap, -gap, 0.7])
        yield Point(
            f"relu, {gap:.0e} from zero",
            lambda a: jnp.sum(jnp.maximum(a, 0)),
            b,
            (1.0 * (b > 0),),
            (b * 0 + 2,),
            gap / 10,
        )


def points(only: str = "") -> list[Point]:
    """All points whose name contains a word."""
    return [point for part in (smooth, whole, kinks, near_ties) for point in part() if only in point.name]


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        points: those whose name contains this word
    """

    points: str = ""


def main(words: Sequence[str]) -> int:
    """Counts what the check makes of the points that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    counts = {"right": 0, "right, but not passed": 0, "wrong": 0, "wrong, but not failed": 0}
    for point in points(options.points):
        for truth, gradients, due in (("right", point.right, "pass"), ("wrong", point.wrong, "FAIL")):
            for gradient in gradients:
                outcome = point.outcome(gradient)
                counts[truth] += 1
                if outcome != due:
                    counts[f"{truth}, but not {'passed' if truth == 'right' else 'failed'}"] += 1
                    print(f"{truth}: {outcome}: {point.name}, gradient {gradient.tolist()}", flush=True)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
