"""Backward weights B in place of W^T in BP2: feedback alignment, sign symmetry, Kolen-Pollack.

    backward   dx = B dy          in place of W^T dy, at every link weight
               dW = dy x^T        as in backpropagation, with the dy that came

Each is one sweep: `model.sweep(rules.gradient, ...)` with B where the forward pass had W. Derivatives of activations,
biases, norms and the loss stay exact, and so is the gradient of the last link weight, whose dy is the loss's own. A
forward pass is never changed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp import rules
from jaxbp.core import Context, Layer, PyTree
from jaxbp.credit.config import Swept
from jaxbp.credit.links import drawn_like, link_weights, picked, replaced
from jaxbp.typed import Positive, Share


@dataclass(frozen=True)
class OtherWeights(Swept):
    """The base of rules that go back through other weights."""

    @abstractmethod
    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        """At every link weight what the rule keeps of it."""
        raise NotImplementedError

    def backward_weights(self, weights: PyTree, kept: PyTree, ctx: Context) -> PyTree:
        """B like the link weights."""
        return kept

    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        others = self.backward_weights(picked(params, kept), kept, ctx)
        return model.sweep(rules.gradient, replaced(params, others), cache, dy)[1], kept


@dataclass(frozen=True)
class FeedbackAlignment(OtherWeights):
    """B is random and never changes (Lillicrap et al. 2016, Nature Communications 7, 13276).

    Exact for the last link weight; for all of them only where B = W. Elsewhere W comes to agree with B as it learns.

    Args:
        scale: root mean square of B, in units of that of the first W
    """

    scale: Positive = 1.0

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        return drawn_like(key, link_weights(type(self).__name__, model, params, spec), self.scale)


@dataclass(frozen=True)
class SignSymmetric(OtherWeights):
    """B has the signs of W and magnitudes of its own (Liao, Leibo & Poggio 2016, arXiv 1510.05067).

    Exact for the last link weight; for all of them where every |W| of a matrix has the one value that "uniform" takes.
    The paper needs batch normalization or batch Manhattan (`optim.BatchManhattan`) beside it in deep nets.

    Args:
        magnitudes: uniform: the mean |W| of the first W; batch: drawn anew at every step; fixed: drawn once
        scale: of the magnitudes, in units of those of the first W
    """

    magnitudes: Literal["uniform", "batch", "fixed"] = "uniform"
    scale: Positive = 1.0

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        weights = link_weights(type(self).__name__, model, params, spec)
        if self.magnitudes == "fixed":
            return jax.tree.map(jnp.abs, drawn_like(key, weights, self.scale))
        mean = jnp.mean if self.magnitudes == "uniform" else lambda size: jnp.sqrt(jnp.mean(size * size))
        return jax.tree.map(lambda w: self.scale * mean(jnp.abs(w)), weights)

    def backward_weights(self, weights: PyTree, kept: PyTree, ctx: Context) -> PyTree:
        if self.magnitudes == "batch":
            ones = jax.tree.map(jnp.ones_like, weights)
            drawn = drawn_like(ctx.draw("noise"), ones, 1.0)
            kept = jax.tree.map(lambda z, size: jnp.abs(z) * size, drawn, kept)
        return jax.tree.map(lambda w, size: jnp.sign(w) * size, weights, kept)


@dataclass(frozen=True)
class KolenPollack(OtherWeights):
    """B starts at random, takes every step that W takes, and both decay (Kolen & Pollack 1994; Akrout et al. 2019).

        W' = (1 - decay) W + u,   B' = (1 - decay) B + u      u the optimizer's update of W

    W - B shrinks as (1 - decay)^t whatever u is: the rule turns into backpropagation of a W that decays. Exact for the
    last link weight, and in the limit. No weight is read to change another: u is made of dy and x on both ways.

    Args:
        decay: share of both that a step takes away
        scale: root mean square of the first B, in units of that of the first W
    """

    decay: Share = 1e-4
    scale: Positive = 1.0

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        return drawn_like(key, link_weights(type(self).__name__, model, params, spec), self.scale)

    def update(self, updates: PyTree, params: PyTree, kept: PyTree) -> tuple[PyTree, PyTree]:
        decayed = lambda u, w: u - self.decay * w
        own = picked(updates, kept)
        forward = jax.tree.map(decayed, own, picked(params, kept))
        back = jax.tree.map(lambda u, b: b + decayed(u, b), own, kept)
        return replaced(updates, forward), back
