"""Real-time recurrent learning as the credit rule of a run; `jaxbp.credit.rtrl` has the mathematics."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, add
from jaxbp.credit.config import Swept
from jaxbp.credit.rtrl import Moment, RealTimeRecurrentLearning
from jaxbp.errors import InputError
from jaxbp.layers import Recurrent
from jaxbp.rules import Rule


@dataclass(frozen=True)
class RealTime(Swept):
    """Recurrent layers learn forward in time, from the influence that each weight has on the state. Exact.

    An example carries S |w| numbers for a state of S entries, and a step costs S^2 |w| operations. Layers below a
    recurrent one get its delta by backpropagation through time. Defined for recurrent layers that run forward from a
    state of zeros over whole sequences.
    """

    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        return model.sweep(Rule(_take, merge=add), params, cache, dy)[1], kept


def _take(layer: Layer, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[PyTree, PyTree]:
    if not isinstance(layer, Recurrent):
        return layer.backward(params, cache, dy)
    x = cache.inputs
    if layer.reverse or layer.carry or layer.truncate or layer.initial != "zeros" or isinstance(x, tuple):
        raise InputError(f"RealTime is not defined for {layer}: it runs forward from a state of zeros, without a mask")
    learning = RealTimeRecurrentLearning(layer.cell)
    if layer.output == "last":
        dy = jnp.zeros((*x.shape[:2], dy.shape[-1]), dy.dtype).at[:, -1].set(dy)

    def step(carry: tuple[Moment, PyTree], now: tuple[jax.Array, jax.Array]) -> tuple[tuple[Moment, PyTree], None]:
        moment, total = carry
        moment = learning.step(params, moment, now[0])
        return (moment, add(total, learning.gradient(moment, now[1]))), None

    start = learning.start(params, len(x)), jax.tree.map(jnp.zeros_like, params)
    steps = jnp.swapaxes(x, 0, 1), jnp.swapaxes(dy, 0, 1)
    (_, grads), _ = jax.lax.scan(step, start, steps)
    below = dy[:, -1] if layer.output == "last" else dy
    return layer.backward(params, cache, below)[0], grads
