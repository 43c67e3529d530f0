"""Errors shared out along the links, without slopes (Rashid 2016, Make Your Own Neural Network).

    backward   e_below[i] = sum_o share[o, i] e[o]      the error goes through no derivative of an activation
               dW = (e f') x^T                          the derivative enters at the weight that is changed

"weights": share = |w[o, i]| / sum_i |w[o, i]|, so that an output's error is divided among its inputs and none is lost.
"transpose": share = w, e = W^T e.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, add, register
from jaxbp.credit.config import Swept
from jaxbp.credit.links import FEED_FORWARD, link_names, refuse
from jaxbp.layers import Activation
from jaxbp.neural_ode import NeuralODE
from jaxbp.reversible import Reversible
from jaxbp.rules import Rule

WHY = "its slopes lie inside of the cell"


@partial(register, data_fields=["error", "delta"], meta_fields=[])
@dataclass(frozen=True)
class Both:
    """The error as it is shared out, and the delta that it makes of a weight's output."""

    error: PyTree
    delta: PyTree


@dataclass(frozen=True)
class ErrorSplit(Swept):
    """The error of an output is split among the units that caused it; no slope is passed on.

    Exact for the last link weight, and with "transpose" for every weight of a model without activations. In a model of
    one hidden layer "transpose" is exact too: the slope that is missing on the way is made up for at the weight.
    Raises InputError for NeuralODE and Reversible, which compute with the deltas of their layers.

    Args:
        share: weights: in proportion to |w|, all of the error and no more; transpose: times w
    """

    share: Literal["weights", "transpose"] = "weights"

    def check(self, model: Layer) -> None:
        refuse(
            type(self).__name__, model, (NeuralODE, Reversible), "it sends back parts of a delta, and no whole error"
        )

    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        return model.sweep(Rule(self._take, merge=add), params, cache, Both(dy, dy))[1], kept

    def _take(self, layer: Layer, params: PyTree, cache: PyTree, dy: Both) -> tuple[PyTree, PyTree]:
        links = link_names(type(self).__name__, layer, params, FEED_FORWARD, WHY)
        below, grads = layer.backward(params, cache, dy.delta)
        if links:
            error = layer.backward(params | {"w": self.shares(params["w"])}, cache, dy.error)[0]
            return Both(error, error), grads
        if isinstance(layer, Activation):
            return Both(dy.error, layer.backward(params, cache, dy.error)[0]), grads
        error = layer.backward(params, cache, dy.error)[0]
        if isinstance(below, tuple):
            return tuple(map(Both, error, below)), grads
        return Both(error, below), grads

    def shares(self, w: jax.Array) -> jax.Array:
        """What of each output's error [O] every input gets, like w [O, ...]."""
        if self.share == "transpose":
            return w
        size = jnp.abs(w)
        return size / jnp.maximum(jnp.sum(size, range(1, w.ndim), keepdims=True), jnp.finfo(w.dtype).tiny)
