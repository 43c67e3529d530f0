"""Weight mirror: backward weights that learn the forward ones from noise (Akrout et al. 2019, arXiv 1904.05391).

    B' = (1 - rate) B + rate / S sum_s y_s xi_s^T,   y_s = W xi_s,  xi_s standard normal      E[B] -> W

s runs over the S outputs of a layer, over the batch and, of a convolution, over its positions. A layer only sees its
own noise and what it makes of it. The product of output and input is the layer's own weight gradient, with y for dy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree
from jaxbp.credit.feedback import OtherWeights
from jaxbp.credit.links import FEED_FORWARD, drawn_like, link_names, link_weights
from jaxbp.rules import Rule
from jaxbp.typed import Positive, Share

WHY = "its weights act inside of a loop, where no noise comes alone"


@dataclass(frozen=True)
class WeightMirror(OtherWeights):
    """B follows W through noise of its own, at every step, and takes the place of W on the way back.

    Exact for the last link weight; of the others B is W in expectation, up to the noise of the last 1 / rate steps. At
    the rim of a convolution with padding, where taps see zeros, it is a little smaller.

    Args:
        rate: of the running mean; the smaller it is, the later and the more exactly B follows
        scale: root mean square of the first B, in units of that of the first W
    """

    rate: Share = 0.01
    scale: Positive = 1.0

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        weights = link_weights(type(self).__name__, model, params, spec, FEED_FORWARD, WHY)
        return drawn_like(key, weights, self.scale)

    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        grads, _ = super().backward(model, params, cache, dy, kept, ctx)
        seen = model.sweep(self._mirror(ctx.draw("noise")), params, cache, dy)[1]
        return grads, jax.tree.map(lambda b, w: (1 - self.rate) * b + self.rate * w, kept, seen)

    def _mirror(self, key: jax.Array) -> Rule:
        """The rule that takes, at every link weight, what noise of its own says of it."""
        count = itertools.count()  # a layer's number in the sweep, for noise of its own

        def take(layer: Layer, params: PyTree, x: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
            dx, _ = layer.backward(params, x, dy)
            if not link_names(type(self).__name__, layer, params, FEED_FORWARD, WHY):
                return dx, {}
            noise = jax.random.normal(jax.random.fold_in(key, next(count)), x.shape, x.dtype)
            bare = params | ({"b": jnp.zeros_like(params["b"])} if "b" in params else {})
            y, _ = layer.forward(bare, noise, Context())
            positions = y.size // y.shape[-1]
            return dx, {"w": layer.backward(bare, noise, y)[1]["w"] / positions}

        return Rule(take, merge=lambda output, other: output)
