"""Backpropagation on one page: the gradient of a model's loss, and a layer as a jax.custom_vjp function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.core import Batch, Context, Layer, PyTree, add, entry, state_after
from jaxbp.deferred import Deferred
from jaxbp.trees import like, plain


class Result(NamedTuple):
    """What one forward and backward pass gives."""

    value: jax.Array  # the loss, penalties included
    grads: PyTree  # like params
    state: PyTree  # the model's next state; None where the context had none
    output: PyTree


def value_and_grad(model: Layer, loss: Any, penalties: Sequence[Any] = ()) -> Callable[..., Result]:
    """The pure function (params, batch, ctx) -> Result of a model and its loss.

    batch holds "x" [N, ...], "y" (the targets) and "weight": one for each item's loss ([N] or [N, T]), or one number
    for all; without weights the value is the mean over the items. The function `batch` makes one.
    value = sum(weight * loss of each item) + penalties, and grads is its derivative in params.
    A loss over chunks (SoftmaxCrossEntropy's `chunk`) puts the model's last layer off: output is that layer's input.
    Raises InputError for a batch without "x" or "y", and for shapes that do not fit.
    """
    model = loss.prepared(model)

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
        x, ctx = ctx.counted(batch)
        weights = plain(params)
        y, cache = model.forward(weights, x, ctx)
        value, loss_cache = loss.forward(y, entry(batch, "y"), item_weights(batch, y))
        dy = loss.backward(loss_cache)  # BP1
        _, grads = model.backward(weights, cache, dy)  # BP2, BP3, BP4
        output = y.x if isinstance(y, Deferred) else y
        return Result(value, like(params, grads), state_after(model, ctx, cache), output)

    return penalized(run, penalties)


def batch(x: PyTree, y: Any, mask: Any = None) -> Batch:
    """The batch of inputs x [N, ...] and targets y whose value is the mean loss over the items that count.

    mask: 1 where an item counts and 0 where not, of the shape of the per-item losses: that of integer targets, or of
    float targets without their last axis. None: all count. Where no item counts, value and gradient are 0.
    """
    y = jnp.asarray(y)
    items = y.shape[:-1] if jnp.issubdtype(y.dtype, jnp.floating) else y.shape
    mask = jnp.ones(items) if mask is None else jnp.asarray(mask, float)
    return {"x": x, "y": y, "weight": mask / jnp.maximum(jnp.sum(mask), 1)}


def item_weights(batch: Batch, y: jax.Array) -> jax.Array:
    """The weight of each item's loss, for outputs y: from one number for all, and 1 / items where there is none."""
    items = y.shape[:-1]
    weight = jnp.asarray(batch.get("weight", 1 / max(1, prod(items))))
    return weight if weight.ndim else jnp.full(items, 1.0 * weight)


def penalized(gradient: Callable[..., Result], penalties: Sequence[Any]) -> Callable[..., Result]:
    """`gradient` with the value and the gradient of the penalties on the parameters added."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
        value, grads, state, output = gradient(params, batch, ctx)
        for penalty in penalties:
            value = value + penalty.value(params)
            grads = add(grads, penalty.gradient(params))
        return Result(value, grads, state, output)

    return run


def as_function(layer: Layer) -> Callable[..., PyTree]:
    """The layer as f(params, x, ctx=Context()) -> y for ordinary JAX code: its jax.grad runs the hand-written backward.

    For reverse mode under jit, vmap, scan, remat and inside another gradient. Forward mode (jax.jvp) is refused by
    jax.custom_vjp; differentiate `layer.backward` itself for that.
    """

    @jax.custom_vjp
    def apply(params: PyTree, x: PyTree, ctx: Context = Context()) -> PyTree:
        return layer.forward(plain(params), x, ctx)[0]

    def forward(params: PyTree, x: PyTree, ctx: Context) -> tuple[PyTree, PyTree]:
        y, cache = layer.forward(plain(params), x, ctx)
        return y, (params, cache)

    def backward(residuals: tuple[PyTree, PyTree], dy: PyTree) -> tuple[PyTree, PyTree, None]:
        params, cache = residuals
        dx, grads = layer.backward(plain(params), cache, dy)
        return like(params, grads), dx, None

    apply.defvjp(forward, backward)
    return apply
