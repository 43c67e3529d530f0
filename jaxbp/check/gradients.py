"""A whole model's hand-written gradient, leaf by leaf, against jax.grad of its own forward and finite differences."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.backprop import value_and_grad
from jaxbp.check.compare import FLOAT64_TOLERANCE, leaf_errors
from jaxbp.check.oracle import autodiff
from jaxbp.core import Context, Layer, PyTree, cast, path_name

DIFFERENCE_TOLERANCE = 1e-6  # central differences in float64 reach about 1e-9


@dataclass(frozen=True)
class Leaf:
    """The verdict on one parameter's gradient."""

    path: str
    shape: tuple[int, ...]
    autodiff_error: float  # against jax.grad, largest entry, relative
    difference_error: float  # against central differences along random directions, relative

    @property
    def passed(self) -> bool:
        """Both errors within the tolerances of float64."""
        return self.autodiff_error <= FLOAT64_TOLERANCE and self.difference_error <= DIFFERENCE_TOLERANCE


def check_gradients(
    model: Layer, loss: Any, params: PyTree, batch: PyTree, ctx: Context, penalties: Sequence[Any] = (), seed: int = 0
) -> list[Leaf]:
    """Checks value_and_grad(model, loss, penalties) in float64, two random directions a leaf; one compiled program.

    ctx: with dropout a key is fixed, so that all evaluations see the same mask. Needs jax_enable_x64.
    """
    params, batch, ctx = cast((params, batch, ctx), jnp.float64)
    run = value_and_grad(model, loss, penalties)
    step = float(np.finfo(np.float64).eps ** (1 / 3))
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    oracle = autodiff(model, loss, penalties)

    def slopes(leaf: jax.Array, key: jax.Array, grads: PyTree) -> tuple[jax.Array, jax.Array]:
        """Along a random unit direction v in one leaf: <grad, v> and the central difference."""
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        v = [jnp.where(leaf == i, jax.random.normal(keys[i], p.shape, p.dtype), 0) for i, p in enumerate(leaves)]
        length = jnp.sqrt(sum(jnp.vdot(a, a) for a in v))
        shifted = lambda h: tree.unflatten([p + h / length * a for p, a in zip(leaves, v, strict=True)])
        moved = lambda h: run(shifted(h), batch, ctx).value
        exact = sum(jnp.vdot(g, a) for g, a in zip(jax.tree.leaves(grads), v, strict=True)) / length
        return exact, (moved(step) - moved(-step)) / (2 * step)

    @jax.jit
    def everything(key: jax.Array) -> tuple[PyTree, ...]:
        hand = run(params, batch, ctx)
        which = jnp.repeat(jnp.arange(len(paths)), 2)
        pairs = jax.lax.map(lambda ik: slopes(*ik, hand.grads), (which, jax.random.split(key, len(which))))
        return hand.grads, oracle(params, batch, ctx).grads, pairs

    hand, auto, (exact, difference) = everything(jax.random.key(seed))
    errors = leaf_errors(hand, auto)
    exact, difference = np.asarray(exact).reshape(-1, 2), np.asarray(difference).reshape(-1, 2)
    scale = np.maximum(np.abs(exact).max(1), 1e-3 * np.abs(exact).max(initial=1e-300))
    differences = np.abs(exact - difference).max(1) / scale
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    rows = zip(paths, shapes, differences, strict=True)
    return [Leaf(path, shape, errors[path], float(difference)) for path, shape, difference in rows]
