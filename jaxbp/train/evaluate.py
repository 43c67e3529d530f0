"""Loss and accuracy of a model on one part of the data, in one compiled program."""
from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree
from jaxbp.data import Dataset
from jaxbp.losses import Loss

CHUNK = 1000  # examples in memory at once


def make_evaluation(model: Layer, loss: Loss, classify: bool) -> Callable[[PyTree, PyTree, Dataset], dict[str, float]]:
    """(params, model state, data) -> {"loss": mean over the examples, "accuracy": where `classify`}."""

    @jax.jit
    def sums(params: PyTree, state: PyTree, x: jax.Array, y: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        def chunk(xym: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            x, target, mask = xym
            output, _ = model.forward(params, x, Context(None, state, train=False))
            value, _ = loss.forward(output, target, mask)
            return value, jnp.sum(mask * correct(output, target, loss.threshold)) if classify else value

        return jax.tree.map(jnp.sum, jax.lax.map(chunk, (x, y, mask)))

    def evaluate(params: PyTree, state: PyTree, data: Dataset) -> dict[str, float]:
        size = min(CHUNK, len(data))
        padded = lambda a: np.resize(a, (-(-len(data) // size) * size, *a.shape[1:])).reshape(-1, size, *a.shape[1:])
        mask = (np.arange(-(-len(data) // size) * size) < len(data)).astype(np.float32).reshape(-1, size)
        value, hits = sums(params, state, padded(data.x), padded(data.y), mask)
        found = {"loss": float(value) / len(data)}
        return found | {"accuracy": float(hits) / len(data)} if classify else found

    return evaluate


def correct(output: jax.Array, target: jax.Array, threshold: float) -> jax.Array:
    """[N]: whether the class of an output [N, O] is the target's, [N] or one-hot [N, O]; one output means yes or no."""
    if output.shape[-1] == 1:
        return (output[..., 0] > threshold) == (target.reshape(output.shape[:-1]) > 0.5)
    return jnp.argmax(output, -1) == (jnp.argmax(target, -1) if target.ndim == output.ndim else target)
