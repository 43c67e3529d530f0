"""The objective, for optimizers that need more than its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.analysis import products
from jaxbp.backprop import Result, penalized, value_and_grad
from jaxbp.core import Batch, Context, Layer, PyTree, add
from jaxbp.losses import Loss, Penalty


@dataclass(frozen=True)
class Objective:
    """sum w l(model(x), y) + penalties, of a batch {"x", "y", "weight"}.

    spec: shape and dtype of one batch's x (jax.ShapeDtypeStruct). Only K-FAC needs it.
    """

    model: Layer
    loss: Loss
    penalties: tuple[Penalty, ...] = ()
    spec: PyTree = None

    def value(self, params: PyTree, batch: Batch, ctx: Context) -> jax.Array:
        """The objective itself, by a forward pass alone."""
        x, ctx = ctx.counted(batch)
        y, _ = self.model.forward(params, x, ctx)
        value, _ = self.loss.forward(y, batch["y"], batch["weight"])
        return value + sum(penalty.value(params) for penalty in self.penalties)

    def gradient(self) -> Callable[..., Result]:
        """(params, batch, ctx) -> Result, with the objective and its gradient."""
        return penalized(value_and_grad(self.model, self.loss), self.penalties)

    def hessian(self, params: PyTree, batch: Batch, v: PyTree, ctx: Context) -> PyTree:
        """H v, penalties included."""
        return products.hessian(self.gradient())(params, batch, v, ctx)

    def gauss_newton(self, params: PyTree, batch: Batch, v: PyTree, ctx: Context) -> PyTree:
        """(J^T H J + l2) v."""
        of_loss = products.gauss_newton(self.model, self.loss)(params, batch, v, ctx)
        return add(of_loss, jax.tree.map(jnp.multiply, self.curvature(params), v))

    def curvature(self, params: PyTree) -> PyTree:
        """Like params: the second derivative of the penalties."""
        total = jax.tree.map(jnp.zeros_like, params)
        for penalty in self.penalties:
            total = add(total, penalty.curvature(params))
        return total


def combined(alpha: jax.Array | float, a: PyTree, beta: jax.Array | float, b: PyTree) -> PyTree:
    """alpha a + beta b."""
    return jax.tree.map(lambda a, b: alpha * a + beta * b, a, b)
