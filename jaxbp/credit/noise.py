"""Noisy expectation-maximization: noise in the targets that only helps (Audhkhasi, Osoba & Kosko 2016).

    t' = t + n,   n ~ N(0, scale^2 / (1 + step)^(2 annealing))      where -ln p(t' | y) <= -ln p(t | y), else n = 0

Backpropagation of a negative log-likelihood is generalized expectation-maximization: its gradient is that of the
surrogate likelihood Q at the current weights. Noise that makes the targets more likely under the current outputs raises
Q, sample by sample; that is the NEM inequality (Neural Networks 78, theorems 2 and 3), for softmax outputs a

    SoftmaxCrossEntropy   sum_k n_k ln a_k >= 0
    BinaryCrossEntropy    sum_k n_k (ln a_k - ln (1 - a_k)) >= 0
    SquaredError          sum_k n_k (n_k - 2 (y_k - t_k)) <= 0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result, item_weights
from jaxbp.core import Batch, Context, Layer, PyTree, entry, state_after
from jaxbp.credit.config import Carried, Credit, parted
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.typed import NotNegative, Positive


@dataclass(frozen=True)
class NoisyEM(Credit):
    """Backpropagation of noisy targets; noise that would make them less likely is left out.

    Exact in the limit, as the noise falls. Before it is biased towards the outputs that the net has. For losses that
    are negative log-likelihoods.

    Args:
        scale: standard deviation of the noise in the first step
        annealing: the noise falls as 1 / step^annealing
        blind: keep all the noise, for comparison
    """

    scale: Positive = 0.5
    annealing: NotNegative = 1.0
    blind: bool = False

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        return {"steps": jnp.zeros((), jnp.int32)}

    def noisy(self, loss: Loss, y: jax.Array, target: jax.Array, steps: jax.Array, key: jax.Array) -> jax.Array:
        """The targets of a step, like y [..., O]."""
        size = self.scale / (1.0 + steps) ** self.annealing
        moved = target + (size * jax.random.normal(key, y.shape)).astype(y.dtype)
        likelier = loss.items(y, moved)[0] <= loss.items(y, target)[0]
        return moved if self.blind else jnp.where(likelier[..., None], moved, target)

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        if not loss.is_likelihood:
            raise InputError(f"NoisyEM needs a loss that is a negative log-likelihood, got {loss}")

        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)
            y, cache = model.forward(params, x, ctx)
            target, weight = entry(batch, "y"), item_weights(batch, y)
            value, _ = loss.forward(y, target, weight)
            noisy = self.noisy(loss, y, like_outputs(target, y), kept["steps"], ctx.draw("noise"))
            _, grads = model.backward(params, cache, loss.backward(loss.forward(y, noisy, weight)[1]))
            kept = {"steps": kept["steps"] + 1}
            return Result(value, grads, Carried(state_after(model, ctx, cache), kept), y)

        return run


def like_outputs(target: jax.Array, y: jax.Array) -> jax.Array:
    """The target as numbers like y [..., O]: classes one-hot, labels of one output as they are."""
    if target.ndim < y.ndim and y.shape[-1] > 1:
        return jax.nn.one_hot(target, y.shape[-1], dtype=y.dtype)
    return target.reshape(y.shape).astype(y.dtype)
