"""Difference target propagation: layers get targets, through inverses that they learn (Lee et al. 2015).

(arXiv 1412.7525.) A chain is cut into stages h_l = f_l(h_l-1) before every layer with parameters, and a g_l(h) =
f(V_l h + c_l) learns to invert each f_l.

    target_L-1 = h_L-1 - rate dL/dh_L-1
    target_l-1 = h_l-1 + g_l(target_l) - g_l(h_l)             the difference makes up for an inverse that is not exact
    dw_l = (df_l/dw_l)^T (h_l - target_l) / rate              of |h_l - target_l|^2 / 2; stage L has the loss's gradient
    V_l, c_l fall down |g_l(f_l(h_l-1 + noise)) - h_l-1 - noise|^2 / 2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, entry, output_spec
from jaxbp.credit.config import Carried, Credit, example_weights, parted
from jaxbp.credit.predictive import next_states, stage_backward, stage_forward, stages_of
from jaxbp.errors import InputError
from jaxbp.inits import weight_and_bias
from jaxbp.layers.cells import FROM_OUTPUT
from jaxbp.losses import Loss
from jaxbp.typed import Positive


@dataclass(frozen=True)
class DifferenceTargetPropagation(Credit):
    """Targets instead of deltas: each stage is to come nearer to what its inverse says that it should have been.

    Exact for the last stage; for all of them in a linear net of orthogonal weights with exact inverses. In general a
    target points where a Gauss-Newton step would, and not along the gradient. For chains of stages [N, features].

    Args:
        activation: of the inverses, that of the layers that they give back
        rate: of the first target's step down the loss of an item
        inverse_rate: of the inverses' own gradient descent
        noise: standard deviation of what the inverses learn to take out
    """

    activation: Literal["tanh", "sigmoid", "identity"] = "tanh"
    rate: Positive = 0.1
    inverse_rate: Positive = 0.05
    noise: Positive = 0.1

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        kept: dict[str, PyTree] = {}
        stages = stages_of(type(self).__name__, model, params)
        for k, stage in enumerate(stages):
            shapes = [spec]
            for _, _, layer in stage:
                shapes.append(output_spec(layer, shapes[-1]))
            before, spec = shapes[0], shapes[-1]
            if k and (before.ndim != 2 or spec.ndim != 2):
                raise InputError(f"DifferenceTargetPropagation needs stages [N, features], got {list(before.shape)}")
            if 0 < k < len(stages) - 1:
                size = (before.shape[-1], spec.shape[-1])
                kept[f"{k:02d}"] = weight_and_bias(jax.random.fold_in(key, k), size, "glorot_uniform", "zeros")
        return kept

    def inverse(self, own: PyTree, h: jax.Array) -> jax.Array:
        """g(h) of one inverse."""
        f, _ = FROM_OUTPUT[self.activation]
        return f(jnp.einsum("no,io->ni", h, own["w"].astype(h.dtype)) + own["b"].astype(h.dtype))

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)
            stages = stages_of(type(self).__name__, model, params)
            values, caches = [x], []
            for stage in stages:
                y, cache = stage_forward(stage, params, values[-1], ctx)
                values.append(y)
                caches.append(cache)
            weight = example_weights(type(self).__name__, batch, y)
            value, loss_cache = loss.forward(y, entry(batch, "y"), weight)
            dy, grads = stage_backward(stages[-1], params, caches[-1], loss.backward(loss_cache))
            shares = jnp.where(weight > 0, weight, 1).reshape(-1, 1)
            target = values[-2] - self.rate * dy / shares
            after: dict[str, Any] = {}
            for k in range(len(stages) - 2, -1, -1):
                error = (values[k + 1] - target) * shares / self.rate
                grads |= stage_backward(stages[k], params, caches[k], error)[1]
                if not k:
                    break
                name = f"{k:02d}"
                g = lambda h, own=kept[name]: self.inverse(own, h)
                target = values[k] + g(target) - g(values[k + 1])
                noise = self.noise * jax.random.normal(jax.random.fold_in(ctx.draw("noise"), k), values[k].shape)
                moved = values[k] + noise.astype(values[k].dtype)
                after[name] = self._learnt(kept[name], stage_forward(stages[k], params, moved, ctx)[0], moved)
            state = next_states(stages, caches, ctx.state)
            return Result(value, {name: grads[name] for name in params}, Carried(state, after), y)

        return run

    def _learnt(self, own: PyTree, h: jax.Array, below: jax.Array) -> PyTree:
        """The inverse after one step of gradient descent towards below = g(h)."""
        _, slope = FROM_OUTPUT[self.activation]
        back = self.inverse(own, h)
        dz = (back - below) * slope(back) / len(h)
        grads = {"w": jnp.einsum("ni,no->io", dz, h), "b": jnp.sum(dz, 0)}
        return jax.tree.map(lambda p, g: p - self.inverse_rate * g.astype(p.dtype), own, grads)
