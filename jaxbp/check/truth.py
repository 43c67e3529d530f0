"""The oracle and the measure: autodiff of the same forward pass, and the error of a gradient beside it.

An error is relative to the leaf, or to the whole reference where a leaf is zero by structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, path_name

FLOAT64_TOLERANCE = 1e-11  # a correct backward reaches 5e-16


def largest_entry(tree: PyTree) -> float:
    """The largest magnitude in the tree; 0 for an empty one, nan where an entry is."""
    return max((float(np.max(np.abs(np.asarray(a, np.float64)))) for a in jax.tree.leaves(tree) if a.size), default=0.0)


def leaf_errors(got: PyTree, want: PyTree) -> dict[str, float]:
    """Path of each leaf -> largest |got - want| / max(largest |want| of the leaf, 1e-3 of the largest of all leaves).

    A leaf of a wrong shape, or with an entry that is not finite in `got` alone, has the error inf.
    """
    got, tree = jax.tree_util.tree_flatten_with_path(got)
    if tree != jax.tree.structure(want):
        raise ValueError(f"the trees differ: {tree} is not {jax.tree.structure(want)}")
    top = largest_entry(want)
    return {path_name(path): leaf_error(g, w, top) for (path, g), w in zip(got, jax.tree.leaves(want), strict=True)}


def leaf_error(got: jax.Array, want: jax.Array, top: float) -> float:
    """The error of one leaf of a tree whose largest entry is `top`."""
    if got.shape != want.shape:
        return float("inf")
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    gap = largest_entry(got - want)
    scale = max(largest_entry(want), 1e-3 * top)
    return gap / scale if scale else float("inf") if gap else 0.0


def worst(got: PyTree, want: PyTree) -> float:
    """The largest of the leaf errors."""
    return max(leaf_errors(got, want).values(), default=0.0)


def autodiff(model: Layer, loss: Any, penalties: Sequence[Any] = ()) -> Callable[..., Result]:
    """What jaxbp.value_and_grad is, by jax.value_and_grad of the model's and the loss's forward."""

    def value(params: PyTree, batch: Batch, ctx: Context) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        y, cache = model.forward(params, batch["x"], ctx)
        value, _ = loss.forward(y, batch["y"], batch["weight"])
        state = None if ctx.state is None else model.next_state(ctx.state, cache)
        return sum((penalty.value(params) for penalty in penalties), value), (state, y)

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
        (found, (state, y)), grads = jax.value_and_grad(value, has_aux=True)(params, batch, ctx)
        return Result(found, grads, state, y)

    return run
