"""Planted faults: a layer's right backward, tampered with in each of the ways that people get it wrong.

The diagnosis is proved on this corpus, and it serves whoever tests a gradient checker of their own. Nothing here knows
how the diagnosis works: a fault tampers with the backward, its cache or its cotangent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.leaves import Gradient, Leaves
from jaxbp.check.problem import Problem, Pullback
from jaxbp.check.report import Cause
from jaxbp.core import PyTree

HELD_OUT_SEED = 20261122  # fixed before the diagnosis first met a fault
FACTORS = (1.001, 0.999, 1.01, 0.9, 0.1, 0.5, 2.0, 10.0)


@dataclass(frozen=True)
class Fault:
    """One planted mistake: its cause and name, the leaf that it spoils, and the wrong backward."""

    cause: Cause
    name: str
    path: str
    pullback: Pullback

    @property
    def spoiled(self) -> set[str]:
        """The leaves that it gets wrong: one, or the two that it swaps."""
        return {self.path, self.name.removeprefix("swapped with ")} if self.cause is Cause.SWAPPED else {self.path}

    def held_out(self, subject: str) -> bool:
        """Whether the subject with this fault is in the tenth that was kept out of the diagnosis's making."""
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


def _tampered(problem: Problem, path: str, change: Callable[[jax.Array], jax.Array | None]) -> Pullback:
    """The right backward with one leaf changed."""

    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        right = problem.pullback(leaves, dy)
        return right | {path: change(right[path])}

    return pullback


def _scaled(problem: Problem, path: str) -> Iterator[Fault]:
    times = lambda c: _tampered(problem, path, lambda g: c * g)
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
    yield Fault(Cause.MISSING, "missing", path, _tampered(problem, path, lambda g: None))


def _rearranged(problem: Problem, path: str) -> Iterator[Fault]:
    leaf = problem.leaves[path]
    is_parameter = path.startswith("grads/")
    change = partial(_tampered, problem, path)
    for other, theirs in problem.leaves.items():
        if other > path and theirs.shape == leaf.shape and is_parameter == other.startswith("grads/"):
            yield Fault(Cause.SWAPPED, f"swapped with {other}", path, _swapped(problem, path, other))
    if not is_parameter:
        if leaf.ndim > 2 and leaf.shape[1] > 1:
            yield Fault(Cause.SHIFTED, "one step late", path, change(lambda g: jnp.roll(g, 1, 1)))
            yield Fault(Cause.SHIFTED, "one step early", path, change(lambda g: jnp.roll(g, -1, 1).at[:, -1].set(0)))
        return
    if leaf.ndim == 2 and min(leaf.shape) > 1:
        yield Fault(Cause.TRANSPOSED, "transposed", path, change(lambda g: g.T.reshape(g.shape)))
        summed = lambda g: jnp.broadcast_to(g.sum(-1)[:, None], g.shape)
        yield Fault(Cause.AXES, "last axis summed", path, change(summed))
    if leaf.ndim > 2 and hasattr(problem.layer, "kernel"):
        yield Fault(Cause.FLIPPED, "kernel not flipped", path, change(_flipped))
    if leaf.ndim > 2:
        turned = lambda g: g.swapaxes(0, 1).reshape(g.shape)
        yield Fault(Cause.TRANSPOSED, "first two axes swapped", path, change(turned))
    if leaf.size > 1:
        yield Fault(Cause.AXES, "all axes summed", path, change(lambda g: jnp.broadcast_to(g.sum(), g.shape)))
        yield Fault(Cause.BROADCAST, "an axis too many", path, change(lambda g: g[None]))
    for count in (4, 3):  # gates
        if leaf.shape[0] % count == 0 and leaf.shape[0] > count:
            by_one = partial(jnp.roll, shift=leaf.shape[0] // count, axis=0)
            yield Fault(Cause.ORDER, f"{count} gates turned by one", path, change(by_one))


def _swapped(problem: Problem, path: str, other: str) -> Pullback:
    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        right = problem.pullback(leaves, dy)
        return right | {path: right[other], other: right[path]}

    return pullback


def _rows(problem: Problem, path: str) -> Iterator[Fault]:
    """Examples and steps that are lost on the way: the right backward of a cotangent that lacks them."""
    if not problem.by_row or problem.size is None or problem.size < 2 or not isinstance(problem.dy, jax.Array):
        return
    size = problem.size
    only = lambda mask: _leaf_of(problem, path, lambda leaves, dy: problem.pullback(leaves, dy * mask))
    last = lambda axis: _at_end(problem.dy, axis)
    yield Fault(Cause.DROPPED, "last example dropped", path, only(1 - last(0)))
    if path.startswith("grads/"):
        yield Fault(Cause.OVERWRITTEN, "examples overwrite each other", path, only(last(0)))

        def unsummed(leaves: Leaves, dy: jax.Array) -> Gradient:
            row = lambda i: (jnp.arange(size) == i).astype(dy.dtype).reshape(-1, *[1] * (dy.ndim - 1))
            return {path: jnp.stack([problem.pullback(leaves, dy * row(i))[path] for i in range(size)])}

        yield Fault(Cause.BROADCAST, "not summed over the batch", path, _leaf_of(problem, path, unsummed))
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
    old = {"dx": jnp.asarray(np.random.default_rng(3).normal(size=problem.leaves["dx"].shape))}
    stale = lambda leaves, dy: problem.pullback(leaves | old, dy)
    if _differs(problem, path, stale):
        yield Fault(Cause.STALE, "stale cache", path, _leaf_of(problem, path, stale))
    if path == "dx":
        yield from _input_caches(problem)


def _input_caches(problem: Problem) -> Iterator[Fault]:
    """What dx alone can meet: other weights, transposed or flipped ones, no derivative, one at the output."""
    dy = problem.dy
    weights = {path: a for path, a in problem.leaves.items() if path != "dx"}
    drawn = {path: jnp.asarray(np.random.default_rng(4).normal(size=a.shape)) for path, a in weights.items()}
    stale = lambda leaves, dy: problem.pullback(leaves | drawn, dy)
    if weights and _differs(problem, "dx", stale):
        yield Fault(Cause.STALE, "stale weights", "dx", _leaf_of(problem, "dx", stale))
    if not weights and isinstance(dy, jax.Array) and dy.shape == problem.leaves["dx"].shape:
        left_out = lambda leaves, dy: problem.pullback(leaves, dy) | {"dx": dy}
        yield Fault(Cause.DERIVATIVE, "derivative left out", "dx", left_out)
        at_output = lambda leaves, dy: problem.pullback(leaves | {"dx": problem.forward(leaves)}, dy)
        if _differs(problem, "dx", at_output):
            yield Fault(Cause.POINT, "derivative at the output", "dx", at_output)
    square = [path for path, a in weights.items() if a.ndim == 2 and a.shape[0] == a.shape[1]]
    if square:
        transposed = lambda leaves, dy: problem.pullback(leaves | {path: leaves[path].T for path in square}, dy)
        yield Fault(Cause.TRANSPOSED, "weight transposed in dx", "dx", _leaf_of(problem, "dx", transposed))
    kernels = [path for path, a in weights.items() if a.ndim > 2]
    if kernels and hasattr(problem.layer, "kernel"):
        flipped = lambda leaves, dy: problem.pullback(leaves | {path: _flipped(leaves[path]) for path in kernels}, dy)
        yield Fault(Cause.FLIPPED, "kernel not flipped in dx", "dx", _leaf_of(problem, "dx", flipped))


def _flipped(w: jax.Array) -> jax.Array:
    """A kernel [O, *space, I] reversed along its spatial axes."""
    return jnp.flip(w, tuple(range(1, w.ndim - 1)))


def _differs(problem: Problem, path: str, wrong: Pullback) -> bool:
    """Whether the wrong point changes this leaf: in a linear layer an old input may not."""
    reads = lambda pullback: np.asarray(pullback(problem.leaves, problem.dy)[path])
    return not np.allclose(reads(wrong), reads(problem.pullback), rtol=1e-12, atol=1e-14)
