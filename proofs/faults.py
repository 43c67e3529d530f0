"""Planted faults: a layer's right backward, rewritten in each of the ways that people get it wrong.

The corpus that the diagnosis is proved on, and a stock of wrong gradients for whoever tests a checker of their own.
Nothing here knows how the diagnosis works: a fault is made by tampering with the backward, its cache or its cotangent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.leaves import Leaves
from jaxbp.check.problem import Problem
from jaxbp.check.report import Cause
from jaxbp.core import PyTree

HELD_OUT_SEED = 20261122  # fixed before the diagnosis first met a fault
FACTORS = (1.001, 0.999, 1.01, 0.9, 0.1, 0.5, 2.0, 10.0)

Gradient = dict[str, jax.Array | None]
Pullback = Callable[[Leaves, PyTree], Gradient]


@dataclass(frozen=True)
class Fault:
    """One planted mistake: what it is called, the leaf it sits in, and the wrong backward."""

    cause: Cause
    name: str
    path: str
    pullback: Pullback

    def held_out(self, subject: str) -> bool:
        """Whether this pair of subject and fault is one of the tenth that the diagnosis was not made with."""
        text = f"{HELD_OUT_SEED}/{subject}/{self.path}/{self.name}"
        return hashlib.sha256(text.encode()).digest()[0] < 26


def faults(problem: Problem) -> Iterator[Fault]:
    """Every fault of a layer's problem (`layer_problem`), leaf by leaf."""
    for path, leaf in problem.leaves.items():
        if leaf.size:
            yield from _scaled(problem, path)
            yield from _rearranged(problem, path)
            yield from _rows(problem, path)
            yield from _caches(problem, path)


def _tampered(problem: Problem, path: str, change: Callable[[jax.Array, Gradient], jax.Array | None]) -> Pullback:
    """The right backward with one leaf changed."""

    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        right = problem.pullback(leaves, dy)
        return right | {path: change(right[path], right)}

    return pullback


def _scaled(problem: Problem, path: str) -> Iterator[Fault]:
    times = lambda c: _tampered(problem, path, lambda g, _: c * g)
    for c in FACTORS:
        yield Fault(Cause.FACTOR, f"times {c}", path, times(c))
    yield Fault(Cause.SIGN, "sign flipped", path, times(-1.0))
    rows = problem.size or 1
    yield Fault(Cause.MEAN, "mean over the batch", path, times(1 / rows))
    yield Fault(Cause.SUM, "times the batch size", path, times(float(rows)))
    for axis, n in enumerate(jax.tree.leaves(problem.dy)[0].shape[1:], 1):
        if n > 1:
            yield Fault(Cause.FACTOR, f"divided by the output's axis {axis}", path, times(1 / n))
            yield Fault(Cause.MEAN, f"mean over the batch and axis {axis}", path, times(1 / (rows * n)))
    yield Fault(Cause.ZERO, "zero", path, times(0.0))
    yield Fault(Cause.MISSING, "missing", path, _tampered(problem, path, lambda g, _: None))


def _rearranged(problem: Problem, path: str) -> Iterator[Fault]:
    leaf, is_parameter = problem.leaves[path], path.startswith("grads/")
    change = lambda f: _tampered(problem, path, lambda g, _: f(g))
    for other, theirs in problem.leaves.items():
        if other > path and theirs.shape == leaf.shape and is_parameter == other.startswith("grads/"):
            swap = lambda leaves, dy, other=other: _swapped(problem.pullback(leaves, dy), path, other)
            yield Fault(Cause.SWAPPED, f"swapped with {other}", path, swap)
    if not is_parameter:
        if leaf.ndim > 2 and leaf.shape[1] > 1:
            yield Fault(Cause.SHIFTED, "one step late", path, change(lambda g: jnp.roll(g, 1, 1)))
            yield Fault(Cause.SHIFTED, "one step early", path, change(lambda g: jnp.roll(g, -1, 1).at[:, -1].set(0)))
        return
    if leaf.ndim == 2 and min(leaf.shape) > 1:
        yield Fault(Cause.TRANSPOSED, "transposed", path, change(lambda g: g.T.reshape(g.shape)))
        yield Fault(
            Cause.AXES, "last axis summed", path, change(lambda g: jnp.broadcast_to(g.sum(-1)[:, None], g.shape))
        )
    if leaf.ndim > 2 and hasattr(problem.layer, "kernel"):
        yield Fault(Cause.FLIPPED, "kernel not flipped", path, change(_flipped))
    if leaf.ndim > 2:
        yield Fault(
            Cause.TRANSPOSED, "first two axes swapped", path, change(lambda g: g.swapaxes(0, 1).reshape(g.shape))
        )
    if leaf.size > 1:
        yield Fault(Cause.AXES, "all axes summed", path, change(lambda g: jnp.broadcast_to(g.sum(), g.shape)))
        yield Fault(Cause.BROADCAST, "an axis too many", path, change(lambda g: g[None]))
    for count in (4, 3):  # gates
        if leaf.shape[0] % count == 0 and leaf.shape[0] > count:
            turn = lambda g, count=count: jnp.roll(g, g.shape[0] // count, 0)
            yield Fault(Cause.ORDER, f"{count} gates turned by one", path, change(turn))


def _swapped(right: Gradient, path: str, other: str) -> Gradient:
    return right | {path: right[other], other: right[path]}


def _rows(problem: Problem, path: str) -> Iterator[Fault]:
    """Examples and steps that are lost on the way: the right backward of a cotangent that lacks them."""
    if not problem.by_row or problem.size < 2 or not isinstance(problem.dy, jax.Array):
        return
    only = lambda mask: _leaf_of(problem, path, lambda leaves, dy: problem.pullback(leaves, dy * mask))
    last = lambda axis: _at_end(problem.dy, axis)
    yield Fault(Cause.DROPPED, "last example dropped", path, only(1 - last(0)))
    if path.startswith("grads/"):
        yield Fault(Cause.OVERWRITTEN, "examples overwrite each other", path, only(last(0)))
        row = lambda dy, i: (jnp.arange(problem.size) == i).astype(dy.dtype).reshape(-1, *[1] * (dy.ndim - 1))
        each = lambda leaves, dy: {
            path: jnp.stack([problem.pullback(leaves, dy * row(dy, i))[path] for i in range(problem.size)])
        }
        yield Fault(Cause.BROADCAST, "not summed over the batch", path, _leaf_of(problem, path, each))
    if problem.dy.ndim > 2 and problem.dy.shape[1] > 1:
        yield Fault(Cause.LAST_STEP, "last step dropped", path, only(1 - last(1)))


def _at_end(dy: jax.Array, axis: int) -> jax.Array:
    n = dy.shape[axis]
    return (jnp.arange(n) == n - 1).astype(dy.dtype).reshape(-1, *[1] * (dy.ndim - axis - 1))


def _leaf_of(problem: Problem, path: str, wrong: Pullback) -> Pullback:
    """The right backward with one leaf from a wrong one."""
    return lambda leaves, dy: problem.pullback(leaves, dy) | {path: wrong(leaves, dy)[path]}


def _caches(problem: Problem, path: str) -> Iterator[Fault]:
    """The right backward on the wrong point: an old input, the output, other weights; and none at all."""
    if problem.layer is None or "dx" not in problem.leaves:
        return
    x, dy = problem.leaves["dx"], problem.dy
    old = jnp.asarray(np.random.default_rng(3).normal(size=x.shape))
    stale = lambda leaves, dy: problem.pullback(leaves | {"dx": old}, dy)
    if _differs(problem, path, stale):
        yield Fault(Cause.STALE, "stale cache", path, _leaf_of(problem, path, stale))
    weights = {
        k: jnp.asarray(np.random.default_rng(4).normal(size=a.shape)) for k, a in problem.leaves.items() if k != "dx"
    }
    if path == "dx" and weights and _differs(problem, path, lambda leaves, dy: problem.pullback(leaves | weights, dy)):
        yield Fault(
            Cause.STALE,
            "stale weights",
            path,
            _leaf_of(problem, path, lambda leaves, dy: problem.pullback(leaves | weights, dy)),
        )
    if path == "dx" and isinstance(dy, jax.Array) and dy.shape == x.shape:
        left_out = lambda leaves, dy: problem.pullback(leaves, dy) | {"dx": dy}
        if not weights:
            yield Fault(Cause.DERIVATIVE, "derivative left out", path, left_out)
            at_output = lambda leaves, dy: problem.pullback(leaves | {"dx": problem.forward(leaves)}, dy)
            if _differs(problem, path, at_output):
                yield Fault(Cause.POINT, "derivative at the output", path, at_output)
    square = {k: a.T for k, a in problem.leaves.items() if k != "dx" and a.ndim == 2 and a.shape[0] == a.shape[1]}
    if path == "dx" and square:
        turned = lambda leaves, dy: problem.pullback(leaves | {k: leaves[k].T for k in square}, dy)
        yield Fault(Cause.TRANSPOSED, "weight transposed in dx", path, _leaf_of(problem, path, turned))
    kernels = {k for k, a in problem.leaves.items() if k != "dx" and a.ndim > 2}
    if path == "dx" and kernels and hasattr(problem.layer, "kernel"):
        flipped = lambda leaves, dy: problem.pullback(leaves | {k: _flipped(leaves[k]) for k in kernels}, dy)
        yield Fault(Cause.FLIPPED, "kernel not flipped in dx", path, _leaf_of(problem, path, flipped))


def _flipped(w: jax.Array) -> jax.Array:
    """A kernel [O, *space, I] reversed along its spatial axes."""
    return jnp.flip(w, tuple(range(1, w.ndim - 1)))


def _differs(problem: Problem, path: str, wrong: Pullback) -> bool:
    """Whether the point matters to this leaf: for a linear layer an old input is none."""
    reads = lambda pullback: np.asarray(pullback(problem.leaves, problem.dy)[path])
    return not np.allclose(reads(wrong), reads(problem.pullback), rtol=1e-12, atol=1e-14)
