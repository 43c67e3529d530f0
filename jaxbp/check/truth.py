"""The oracle and the measure: autodiff of the same forward pass, and the error of a gradient beside it.

An error is relative to the leaf, or to the whole reference where a leaf is zero by structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxbp.backprop import Result, item_weights
from jaxbp.core import Batch, Context, Layer, PyTree, path_name, state_after

FLOAT64_TOLERANCE = 1e-11  # a correct backward reaches 5e-16


def largest_entry(tree: PyTree) -> float:
    """The largest magnitude in the tree; 0 for an empty one, nan where an entry is nan."""
    return float(np.max([np.abs(_wide(a)).max(initial=0) for a in jax.tree.leaves(tree)], initial=0))


def _wide(a: jax.Array | np.ndarray) -> np.ndarray:
    return np.asarray(a, np.complex128 if np.iscomplexobj(a) else np.float64)


def leaf_errors(got: PyTree, truth: PyTree) -> dict[str, float]:
    """Path of each leaf -> largest |got - truth| / max(largest |truth| of the leaf, 1e-3 of the largest of all leaves).

    The error is inf for a leaf of a wrong shape, and where an entry is not finite that is not the same in both. Raises
    ValueError for trees of other structures.
    """
    leaves = jax.tree_util.tree_flatten_with_path(got)[0]
    structures: list[Any] = [jax.tree.structure(got), jax.tree.structure(truth)]
    if structures[0] != structures[1]:
        raise ValueError(f"the trees differ: {structures[0]} is not {structures[1]}")
    top = largest_entry([finite(a) for a in jax.tree.leaves(truth)])
    return {path_name(path): leaf_error(g, w, top) for (path, g), w in zip(leaves, jax.tree.leaves(truth), strict=True)}


def leaf_error(got: jax.Array | np.ndarray, truth: jax.Array | np.ndarray, top: float) -> float:
    """The error of one leaf of a tree whose largest entry is `top`."""
    if got.shape != truth.shape:
        return float("inf")
    got, truth = _wide(got), _wide(truth)
    gap = largest_entry(apart(got, truth))
    if not np.isfinite(gap):
        return float("inf")
    scale = max(largest_entry(finite(truth)), 1e-3 * top)
    return gap / scale if scale else float("inf") if gap else 0.0


def finite(a: jax.Array | np.ndarray) -> np.ndarray:
    """The entries that are finite, in one row."""
    a = _wide(a)
    return a[np.isfinite(a)]


def apart(got: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """got - truth: 0 where both are the same infinity, or nan."""
    same = (got == truth) | (np.isnan(got) & np.isnan(truth))
    return np.subtract(got, truth, out=np.zeros(np.shape(got), got.dtype), where=~same)


def worst(got: PyTree, truth: PyTree) -> float:
    """The largest of the leaf errors."""
    return max(leaf_errors(got, truth).values(), default=0.0)


def objective(model: Layer, loss: Any, penalties: Sequence[Any] = ()) -> Callable[..., Any]:
    """(params, batch, ctx) -> (value, (state, y)): the forward passes of the model, the loss and the penalties."""

    def run(params: PyTree, batch: Batch, ctx: Context) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        x, ctx = ctx.counted(batch)
        y, cache = model.forward(params, x, ctx)
        value, _ = loss.forward(y, batch["y"], item_weights(batch, y))
        state = state_after(model, ctx, cache)
        return sum((penalty.value(params) for penalty in penalties), value), (state, y)

    return run


def autodiff(model: Layer, loss: Any, penalties: Sequence[Any] = ()) -> Callable[..., Result]:
    """jaxbp.value_and_grad by other means: jax.value_and_grad of the same forward passes."""
    differentiated = jax.value_and_grad(objective(model, loss, penalties), has_aux=True)

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
        (value, (state, y)), grads = differentiated(params, batch, ctx)
        return Result(value, grads, state, y)

    return run
