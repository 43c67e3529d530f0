"""Differentially private training: every example's gradient is clipped, and noise hides what is left of any one.

    g_n -> c_n g_n,  c_n = min(1, norm / |g_n|)          an example moves the mean by at most norm share_n
    mean + noise_multiplier norm max_n share_n z,        z standard normal, share_n = 1 / N

(Abadi et al. 2016, arXiv 1607.00133.) The noise is made for the mean that is taken, once a step: also where a batch is
worked through in parts. What privacy it buys is a question for an accountant such as Google's dp-accounting, which
needs noise_multiplier, batch size, examples and steps; batches here are shuffled epochs, not Poisson samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxbp.analysis import per_example
from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree
from jaxbp.losses import Loss
from jaxbp.typed import NotNegative, Positive, Typed


@dataclass(frozen=True)
class Private(Typed):
    """Clipping of every example's gradient, and noise.

    Args:
        norm: to which an example's gradient is cut
        noise_multiplier: standard deviation of the noise, as a multiple of one example's reach
        sweeps: reverse sweeps: two in the memory of one, or one that keeps its factors
    """

    norm: Positive = 1.0
    noise_multiplier: NotNegative = 1.0
    sweeps: Literal["one", "two"] = "two"

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        """In place of value_and_grad: the value is that of the loss, the gradient that of clipped examples."""

        def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
            share = per_example.shares(batch["weight"])
            own = batch["weight"] / jnp.where(share > 0, share, 1).reshape(-1, *(1,) * (batch["weight"].ndim - 1))
            swept = per_example.sweep(model, loss, params, batch | {"weight": own}, ctx)
            grads, _ = per_example.clipped(model, params, swept, self.norm, share, self.sweeps)
            value = loss.forward(swept.output, batch["y"], batch["weight"])[0]
            state = None if ctx.state is None else model.next_state(ctx.state, swept.cache)
            return Result(value, grads, state, swept.output)

        return run

    def noise(self) -> optax.GradientTransformationExtraArgs:
        """update(grads, state, params, batch=, ctx=) adds it."""

        def update(
            grads: PyTree, state: tuple, params: PyTree, *, batch: Batch, ctx: Context, **_: object
        ) -> tuple[PyTree, tuple]:
            leaves, tree = jax.tree.flatten(grads)
            keys = jax.random.split(ctx.draw("noise"), len(leaves))
            scale = self.noise_multiplier * self.norm * jnp.max(per_example.shares(batch["weight"]))
            noisy = [g + scale * jax.random.normal(key, g.shape, g.dtype) for g, key in zip(leaves, keys, strict=True)]
            return tree.unflatten(noisy), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)
