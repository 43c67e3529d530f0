"""Loss and accuracy of a model on one part of the data, or its outputs, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree
from jaxbp.data import Dataset
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import Loss

CHUNK = 1000  # examples in memory at once


def make_evaluation(model: Layer, loss: Loss, classify: bool) -> Callable[[PyTree, PyTree, Dataset], dict[str, float]]:
    """(params, model state, data) -> {"loss": mean over what counts, "accuracy": where `classify`}.

    Every example is by itself: none goes on where another ended.
    """
    model = with_carry(model, False)

    @jax.jit
    def sums(params: PyTree, state: PyTree, x: jax.Array, y: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        def chunk(xym: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            x, target, mask = xym
            output, _ = model.forward(params, x, Context(None, state, train=False))
            value, _ = loss.forward(output, target, mask)
            return value, jnp.sum(mask * correct(output, target, loss.threshold)) if classify else value

        return jax.tree.map(jnp.sum, jax.lax.map(chunk, (x, y, mask)))

    def evaluate(params: PyTree, state: PyTree, data: Dataset) -> dict[str, float]:
        x, y = chunks(data.x), chunks(data.y)
        real = (np.arange(x.shape[0] * x.shape[1]) < len(data)).astype(np.float32).reshape(x.shape[:2])
        mask = chunks(data.counting())
        value, hits = sums(params, state, x, y, mask * real.reshape(*real.shape, *(1,) * (mask.ndim - 2)))
        count = float(data.counting().sum())
        found = {"loss": float(value) / count}
        return found | {"accuracy": float(hits) / count} if classify else found

    return evaluate


def make_prediction(model: Layer) -> Callable[[PyTree, PyTree, np.ndarray], np.ndarray]:
    """(params, model state, x [N, ...]) -> the model's outputs [N, ...] on the host."""
    model = with_carry(model, False)

    @jax.jit
    def outputs(params: PyTree, state: PyTree, x: jax.Array) -> jax.Array:
        return jax.lax.map(lambda x: model.forward(params, x, Context(None, state, train=False))[0], x)

    def predict(params: PyTree, state: PyTree, x: np.ndarray) -> np.ndarray:
        return np.concatenate(outputs(params, state, chunks(x)))[: len(x)]

    return predict


def chunks(rows: np.ndarray) -> np.ndarray:
    """[N, ...] -> [chunks, at most CHUNK, ...]; the first rows fill up the last chunk."""
    size = min(CHUNK, len(rows))
    count = -(-len(rows) // size)
    return np.resize(rows, (count * size, *rows.shape[1:])).reshape(count, size, *rows.shape[1:])


def correct(output: jax.Array, target: jax.Array, threshold: float) -> jax.Array:
    """[N]: whether the class of an output [N, O] is the target's, [N] or one-hot [N, O]; one output means yes or no."""
    return predicted_class(output, threshold) == true_class(output, target)


def predicted_class(output: jax.Array, threshold: float) -> jax.Array:
    """[N]: the place of the largest of the outputs [N, O]; for one output whether it is above the threshold."""
    return output[..., 0] > threshold if output.shape[-1] == 1 else output.argmax(-1)


def true_class(output: jax.Array, target: jax.Array) -> jax.Array:
    """[N]: the class that a target [N] or [N, O] means beside such an output [N, O]; for one output yes or no."""
    if output.shape[-1] == 1:
        return target.reshape(output.shape[:-1]) > 0.5
    return target.argmax(-1) if target.ndim == output.ndim else target
