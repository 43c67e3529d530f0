"""Products of matrices that are never formed with a vector like params: Jacobian, Hessian, Gauss-Newton, Fisher.

With f the model's outputs, J = df / dparams, l the loss of an item and w its weight, and D the delta of an item's loss,

    jacobian            J v                                  one forward pass pushed forward
    jacobian_transpose  J^T u                                one reverse sweep
    hessian             d/de gradient(params + e v)          the reverse sweep pushed forward: the R-operator
    gauss_newton        J^T H J v,  H = d^2 sum w l / df^2   H u is the hand-written delta pushed forward
    fisher              sum_items w g (g . v),  g = J^T D    g . v = D . J v, so no item's gradient is formed

Hessian: Pearlmutter 1994, Neural Computation 6(1). Gauss-Newton: Schraudolph 2002, Neural Computation 14(7). The last
is the empirical Fisher matrix, with the data's own targets. The true Fisher matrix takes targets from the model's
distribution. It equals the Gauss-Newton matrix for a loss that is a negative log-likelihood in its natural parameters
(Martens 2020, arXiv 1412.1193, section 9): squared error, binary and softmax cross-entropy.

Each function makes one (params, batch, v, ctx) -> product, a plain JAX function. The context fixes the mode and the
dropout mask; the loss is sum w l as in value_and_grad.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree
from jaxbp.errors import InputError
from jaxbp.losses import Loss

Product = Callable[..., PyTree]


def jacobian(model: Layer) -> Product:
    """(params, batch, v like params, ctx) -> J v, like the model's outputs. batch needs "x" alone."""

    def product(params: PyTree, batch: Batch, v: PyTree, ctx: Context = Context()) -> jax.Array:
        return jax.jvp(lambda params: model.forward(params, batch["x"], ctx)[0], (params,), (v,))[1]

    return product


def jacobian_transpose(model: Layer) -> Product:
    """(params, batch, u like the model's outputs, ctx) -> J^T u, like params. batch needs "x" alone."""

    def product(params: PyTree, batch: Batch, u: jax.Array, ctx: Context = Context()) -> PyTree:
        return model.backward(params, model.forward(params, batch["x"], ctx)[1], u)[1]

    return product


def hessian(gradient: Callable[..., Result]) -> Product:
    """(params, batch, v like params, ctx) -> H v, like params, of a value_and_grad(model, loss, penalties)."""

    def product(params: PyTree, batch: Batch, v: PyTree, ctx: Context = Context()) -> PyTree:
        return jax.jvp(lambda params: gradient(params, batch, ctx).grads, (params,), (v,))[1]

    return product


def gauss_newton(model: Layer, loss: Loss) -> Product:
    """(params, batch, v like params, ctx) -> J^T H J v, like params: positive semi-definite for a convex loss."""
    return _sandwiched(model, lambda y, u, batch: jax.jvp(lambda y: output_delta(loss, y, batch), (y,), (u,))[1])


def fisher(model: Layer, loss: Loss, empirical: bool) -> Product:
    """(params, batch, v like params, ctx) -> F v, like params; with the batch's targets, or with the model's own.

    An item is what has a weight: a row, or in sequences a time step. Raises InputError for the true Fisher matrix of a
    loss that is not a negative log-likelihood.
    """
    if not empirical:
        if not loss.is_likelihood:
            raise InputError(f"fisher: {type(loss).__name__} is not a negative log-likelihood, so only empirical=True")
        return gauss_newton(model, loss)

    def outer_product(y: jax.Array, u: jax.Array, batch: Batch) -> jax.Array:
        """w D (D . u) of each item."""
        deltas = output_delta(loss, y, batch | {"weight": jnp.ones_like(batch["weight"])})
        slope = jnp.sum(deltas * u, -1) * batch["weight"]
        return jnp.where(batch["weight"][..., None] == 0, 0, slope[..., None] * deltas)

    return _sandwiched(model, outer_product)


def _sandwiched(model: Layer, middle: Callable[[jax.Array, jax.Array, Batch], jax.Array]) -> Product:
    """J^T middle(y, J v, batch): the forward pass and its push-forward together, then one reverse sweep."""

    def product(params: PyTree, batch: Batch, v: PyTree, ctx: Context = Context()) -> PyTree:
        x, ctx = ctx.counted(batch)
        forward = lambda params: model.forward(params, x, ctx)
        y, u, cache = jax.jvp(forward, (params,), (v,), has_aux=True)
        return model.backward(params, cache, middle(y, u, batch).astype(y.dtype))[1]

    return product


def output_delta(loss: Loss, y: jax.Array, batch: Batch) -> jax.Array:
    """The delta of the batch's loss at the outputs y, like y (BP1)."""
    return loss.backward(loss.forward(y, batch["y"], batch["weight"])[1])
