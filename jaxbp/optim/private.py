"""Differentially private training: every example's gradient is clipped, and noise hides what any one still shows.

    g_n -> c_n g_n,  c_n = min(1, norm / |g_n|)          an example moves the mean by at most norm share_n
    mean + noise_multiplier norm max_n share_n z,        z standard normal, share_n = 1 / N

(Abadi et al. 2016, arXiv 1607.00133.) The noise is added to the mean once a step, also where a batch is computed in
parts. An accountant such as Google's dp-accounting says how much privacy this gives, from noise_multiplier, batch size,
number of examples and steps; batches here are shuffled epochs, not Poisson samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxbp.analysis import per_example
from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, state_after
from jaxbp.losses import Loss
from jaxbp.typed import NotNegative, Positive, Typed


@dataclass(frozen=True)
class Private(Typed):
    """Clipping of every example's gradient, and noise.

    Args:
        norm: to which an example's gradient is cut
        noise_multiplier: standard deviation of the noise, in units of what one example can change
        memory: kept: one reverse sweep, whose factors stay in memory; recomputed: two sweeps in the memory of one
    """

    norm: Positive = 1.0
    noise_multiplier: NotNegative = 1.0
    memory: per_example.Memory = "recomputed"

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        """In place of value_and_grad: the value of the loss, with the weighted sum of clipped gradients."""

        def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
            weight = batch["weight"]
            share = per_example.shares(weight)
            own_weight = weight / jnp.where(share > 0, share, 1).reshape(-1, *(1,) * (weight.ndim - 1))
            factored = per_example.factored_pass(model, loss, params, batch | {"weight": own_weight}, ctx)
            grads, _ = per_example.clipped(model, params, factored, self.norm, share, self.memory)
            value = loss.forward(factored.output, batch["y"], weight)[0]
            state = state_after(model, ctx, factored.cache)
            return Result(value, grads, state, factored.output)

        return run

    def noise(self) -> optax.GradientTransformationExtraArgs:
        """update(grads, state, params, batch=, ctx=) adds it. Raises InputError for a context without a key."""

        def update(
            grads: PyTree, state: tuple, params: PyTree, *, batch: Batch, ctx: Context, **_: object
        ) -> tuple[PyTree, tuple]:
            leaves, tree = jax.tree.flatten(grads)
            keys = jax.random.split(ctx.draw("noise"), len(leaves))
            scale = self.noise_multiplier * self.norm * jnp.max(per_example.shares(batch["weight"]))
            noisy = [g + scale * jax.random.normal(key, g.shape, g.dtype) for g, key in zip(leaves, keys, strict=True)]
            return jax.tree.unflatten(tree, noisy), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)
