"""Loss and accuracy of a model on one part of the data, or its outputs, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree
from jaxbp.data import Dataset
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import Loss

CHUNK = 1000  # examples in memory at once

Evaluation = Callable[[PyTree, PyTree, Dataset], dict[str, float]]
Prediction = Callable[[PyTree, PyTree, np.ndarray], np.ndarray]
Array = TypeVar("Array", jax.Array, np.ndarray)


def make_evaluation(model: Layer, loss: Loss, classify: bool) -> Evaluation:
    """(params, model state, data) -> {"loss": mean over what counts}, and "accuracy" where `classify`.

    No example continues another: a recurrent state is not carried.
    """
    model = with_carry(model, False)

    @jax.jit
    def sums(params: PyTree, state: PyTree, x: jax.Array, y: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        def chunk_sums(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            x, target, mask = chunk
            output, _ = model.forward(params, x, Context(None, state, train=False))
            value, _ = loss.forward(output, target, mask)
            return value, jnp.sum(mask * correct(output, target, loss.threshold)) if classify else value

        return jax.tree.map(jnp.sum, jax.lax.map(chunk_sums, (x, y, mask)))

    def evaluate(params: PyTree, state: PyTree, data: Dataset) -> dict[str, float]:
        x = chunks(data.x)
        counting = chunks(data.counting())
        filled = np.arange(x.shape[0] * x.shape[1]) < len(data)  # False where a row only fills up the last chunk
        mask = counting * filled.reshape(*x.shape[:2], *(1,) * (counting.ndim - 2))
        value, hits = sums(params, state, x, chunks(data.y), mask)
        count = float(data.counting().sum())
        metrics = {"loss": float(value) / count}
        return metrics | {"accuracy": float(hits) / count} if classify else metrics

    return evaluate


def make_prediction(model: Layer) -> Prediction:
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
    """[N]: whether the output [N, O] has the class of the target, [N] or one-hot [N, O]; one output means yes or no."""
    return predicted_class(output, threshold) == true_class(output, target)


def predicted_class(output: Array, threshold: float) -> Array:
    """[N]: the place of the largest of the outputs [N, O]; for one output whether it is above the threshold."""
    return output[..., 0] > threshold if output.shape[-1] == 1 else output.argmax(-1)


def true_class(output: Array, target: Array) -> Array:
    """[N]: the class of a target [N] or one-hot [N, O] for outputs [N, O]; for one output whether it is yes."""
    if output.shape[-1] == 1:
        return target.reshape(output.shape[:-1]) > 0.5
    return target.argmax(-1) if target.ndim == output.ndim else target
