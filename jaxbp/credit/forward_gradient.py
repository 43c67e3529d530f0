"""Forward gradients: no backward pass, but the slope of the loss along random directions (Baydin et al. 2022).

    g = (1 / K) sum_k (dL/dw . v_k) v_k,   v_k standard normal        E[g] = dL/dw, since E[v v^T] = 1

(arXiv 2202.08587.) The slope dL/dw . v comes with the forward pass, by JAX's forward mode: the one place where a credit
rule differentiates by machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result, item_weights
from jaxbp.core import Batch, Context, Layer, PyTree, entry, state_after
from jaxbp.credit.config import Carried, Credit, parted
from jaxbp.losses import Loss
from jaxbp.typed import Count


@dataclass(frozen=True)
class ForwardGradient(Credit):
    """The slope along random directions, times them. Exact in expectation: unbiased, for every model and loss.

    With n weights and K directions the squared distance from the gradient is about n / K times its own square.

    Args:
        directions: that are drawn and averaged in a step; each costs about two forward passes
    """

    directions: Count = 1

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)

            def forward(params: PyTree) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
                y, cache = model.forward(params, x, ctx)
                value, _ = loss.forward(y, entry(batch, "y"), item_weights(batch, y))
                return value, (state_after(model, ctx, cache), y)

            def direction(key: jax.Array) -> tuple[jax.Array, PyTree, PyTree]:
                leaves, tree = jax.tree.flatten(params)
                keys = jax.random.split(key, max(1, len(leaves)))
                v = [jax.random.normal(k, w.shape, w.dtype) for k, w in zip(keys, leaves, strict=False)]
                value, slope, rest = jax.jvp(forward, (params,), (jax.tree.unflatten(tree, v),), has_aux=True)
                return value, jax.tree.unflatten(tree, [slope.astype(a.dtype) * a for a in v]), rest

            keys = jax.random.split(ctx.draw("noise"), self.directions)
            value, directions, (state, y) = jax.vmap(direction, out_axes=(None, 0, None))(keys)
            return Result(value, jax.tree.map(lambda g: jnp.mean(g, 0), directions), Carried(state, kept), y)

        return run
