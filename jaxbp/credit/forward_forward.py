"""The forward-forward algorithm: layers learn to tell right labels from wrong ones (Hinton 2022, arXiv 2212.13345).

A chain is cut into stages h_l = f_l(h_l-1) before every layer with parameters. With C labels and a fixed random code E,

    positive   h_0 = x + E_label          two forward passes, and none back
    negative   h_0 = x + E_other          another label, drawn at random
    G_l = mean of h_l^2                   the goodness of a stage
    dw_l = the gradient of softplus(threshold - G_l positive) + softplus(G_l negative - threshold)     in stage l alone

The last stage learns to classify what the others make of x itself, without a code (section 3.3 of the paper). Data with
labels in the input can be told apart by the length of h alone: a norm between stages, such as RMSNorm, takes it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, add, entry, output_spec
from jaxbp.credit.config import Carried, Credit, example_weights, parted
from jaxbp.credit.links import UNLINKED
from jaxbp.credit.predictive import Stage, next_states, stage_backward, stage_forward, stages_of
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.typed import Positive


@dataclass(frozen=True)
class ForwardForward(Credit):
    """Each stage raises its own goodness for right labels and lowers it for wrong ones; nothing goes back.

    Exact for the last stage alone, whose direction is the loss's gradient. For the others it is the gradient of another
    loss, their own. For chains that classify, with a loss of labels 0 ... C - 1. Norms of their own keep the parameters
    that they start with.

    Args:
        threshold: goodness that divides right from wrong
        scale: standard deviation of the labels' code E
    """

    threshold: Positive = 1.0
    scale: Positive = 0.5

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        stages_of(type(self).__name__, model, params)
        y = output_spec(model, spec)
        if y.ndim != 2 or y.shape[-1] < 2:
            raise InputError(f"ForwardForward needs outputs [N, C] of at least 2 classes, and has {list(y.shape)}")
        return {"code": self.scale * jax.random.normal(key, (y.shape[-1], *spec.shape[1:]), spec.dtype)}

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)
            label = entry(batch, "y")
            *stages, last = stages_of(type(self).__name__, model, params)
            y, caches = x, []
            for stage in (*stages, last):
                y, cache = stage_forward(stage, params, y, ctx)
                caches.append(cache)
            weight = example_weights(type(self).__name__, batch, y)
            if not jnp.issubdtype(label.dtype, jnp.integer):
                raise InputError(f"ForwardForward needs labels, whole numbers, got targets of {label.dtype}")
            value, loss_cache = loss.forward(y, label, weight)
            grads = stage_backward(last, params, caches[-1], loss.backward(loss_cache))[1]
            classes = len(kept["code"])
            other = (label + jax.random.randint(ctx.draw("noise"), label.shape, 1, classes)) % classes
            right = self._local(stages, params, x + kept["code"][label], 1, weight, ctx)
            wrong = self._local(stages, params, x + kept["code"][other], -1, weight, ctx)
            grads |= add(right, wrong)
            state = next_states([*stages, last], caches, ctx.state)
            return Result(value, {name: grads[name] for name in params}, Carried(state, kept), y)

        return run

    def _local(
        self, stages: list[Stage], params: PyTree, h: jax.Array, sign: int, weight: jax.Array, ctx: Context
    ) -> PyTree:
        """{name: grads} of sum_n weight_n softplus(sign (threshold - G_n)), each stage for itself."""
        grads: PyTree = {}
        for stage in stages:
            h, cache = stage_forward(stage, params, h, ctx)
            rows = h.reshape(len(h), -1)
            goodness = jnp.mean(rows * rows, 1)
            slope = -sign * weight * jax.nn.sigmoid(sign * (self.threshold - goodness))
            dh = (slope[:, None] * 2 * rows / rows.shape[1]).reshape(h.shape)
            own = stage_backward(stage, params, cache, dh)[1]
            grads |= own if learns(stage) else jax.tree.map(jnp.zeros_like, own)
        return grads


def learns(stage: Stage) -> bool:
    """Whether a stage has weights that the length of its output can depend on: norms have none."""
    return not any(isinstance(layer, UNLINKED) for _, _, layer in stage)
