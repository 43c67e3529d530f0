"""Loss and accuracy of a model on one part of the data, or its outputs, in one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree
from jaxbp.data import Dataset, Splits
from jaxbp.deferred import Deferred
from jaxbp.devices.mesh import AXES
from jaxbp.devices.placement import Placement
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy

CHUNK = 1000  # examples in memory at once
CHUNK_STEPS = 2**14  # of sequences no more than have so many time steps together
PREDICTED = 128  # rows in one call of the program that predicts: one row costs as much

Evaluation = Callable[[PyTree, PyTree, Dataset], dict[str, float]]
Outputs = Callable[[PyTree, PyTree, np.ndarray], np.ndarray]
Array = TypeVar("Array", jax.Array, np.ndarray)


def make_evaluation(model: Layer, loss: Loss, classify: bool, placement: Placement | None = None) -> Evaluation:
    """(params, model state, data) -> {"loss": mean over what counts}, and "accuracy" where `classify`.

    No example continues another: a recurrent state is not carried. placement: of the arrays on a mesh, whose devices
    share every chunk.
    """
    devices = placement.row_parts if placement else 1
    sums = evaluation_sums(placement.model if placement else model, loss, classify, AXES if placement else ())
    compiled = placement.sums(sums) if placement else jax.jit(sums)

    def evaluate(params: PyTree, state: PyTree, data: Dataset) -> dict[str, float]:
        value, hits = compiled(params, state, *in_chunks(data, devices))
        return means(float(value), float(hits), data, classify)

    return evaluate


def evaluation_sums(
    model: Layer, loss: Loss, classify: bool, axes: tuple[str, ...] = ()
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, model state, x, y, mask in chunks) -> (sum of the losses, hits; not `classify`: no hits).

    axes: of a mesh, which split every chunk.
    """
    model = loss.prepared(with_carry(model, False))

    def sums(params: PyTree, state: PyTree, x: jax.Array, y: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        def chunk_sums(chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            x, target, mask = chunk
            output, _ = model.forward(params, x, Context.evaluation(state, axes))
            if isinstance(loss, SoftmaxCrossEntropy) and isinstance(output, Deferred):
                value, classes = loss.scored(output, target, mask)
                return value, jnp.sum(mask * (classes == target))
            value, _ = loss.forward(output, target, mask)
            return value, jnp.sum(mask * correct(output, target, loss.threshold)) if classify else value

        return jax.tree.map(jnp.sum, jax.lax.map(chunk_sums, (x, y, mask)))

    return sums


def train_sample(splits: Splits) -> Dataset:
    """As many training examples as the test part has, evenly spaced: their accuracy costs as much as the test's."""
    count = min(len(splits.train), len(splits.test))
    return splits.train.take(np.arange(count) * len(splits.train) // count)


def in_chunks(data: Dataset, devices: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, y, mask) of the data, [chunks, size, ...], with what fills up the last chunk masked.

    size is a multiple of `devices`.
    """
    counting = data.counting()  # [N] or [N, T]
    size = min(CHUNK, len(data), max(CHUNK_STEPS // counting[0].size, 1))
    size = -(-size // devices) * devices
    x = chunks(data.x, size)
    counting = chunks(counting, size)
    filled = np.arange(x.shape[0] * x.shape[1]) < len(data)  # False where a row only fills up the last chunk
    return x, chunks(data.y, size), counting * filled.reshape(*x.shape[:2], *(1,) * (counting.ndim - 2))


def means(value: float, hits: float, data: Dataset, classify: bool) -> dict[str, float]:
    """{"loss"}, and "accuracy" where `classify`, from the sums over the data."""
    count = float(data.counting().sum()) or 1.0  # where nothing counts, the loss is 0
    metrics = {"loss": value / count}
    return metrics | {"accuracy": hits / count} if classify else metrics


@lru_cache(maxsize=8)
def make_prediction(model: Layer) -> Outputs:
    """(params, model state, x [N, ...]) -> the model's outputs [N, ...] on the host, for any N by one compiled program.

    It is the same function for the same model, so whoever asks again does not compile again.
    """
    model = with_carry(model, False)

    @jax.jit
    def outputs(params: PyTree, state: PyTree, x: jax.Array) -> jax.Array:
        return model.forward(params, x, Context.evaluation(state))[0]

    def predict(params: PyTree, state: PyTree, x: np.ndarray) -> np.ndarray:
        parts = [outputs(params, state, part) for part in chunks(x, PREDICTED)]
        return np.concatenate(parts)[: len(x)]

    return predict


def probabilities(y: np.ndarray, loss: Loss) -> np.ndarray | None:
    """[..., classes] from outputs y [..., O]; None where the loss does not make them probabilities."""
    from scipy.special import expit, softmax

    if isinstance(loss, SoftmaxCrossEntropy):
        return softmax(y.astype(np.float64), axis=-1)
    if isinstance(loss, BinaryCrossEntropy) and y.shape[-1] == 1:
        return expit(np.concatenate([-y, y], axis=-1).astype(np.float64))
    return None


def chunks(rows: np.ndarray, size: int) -> np.ndarray:
    """[N, ...] -> [chunks, size, ...]; the first rows fill up the last chunk, over and over."""
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
