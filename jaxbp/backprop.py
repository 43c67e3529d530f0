"""Backpropagation on one page: the gradient of a model's loss, and a layer as a jax.custom_vjp function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxbp.core import Batch, Context, Layer, PyTree, add, state_after


class Result(NamedTuple):
    """What one forward and backward pass gives."""

    value: jax.Array  # the loss, penalties included
    grads: PyTree  # like params
    state: PyTree  # the model's next state; None where the context had none
    output: PyTree


def value_and_grad(model: Layer, loss: Any, penalties: Sequence[Any] = ()) -> Callable[..., Result]:
    """The pure function (params, batch, ctx) -> Result of a model and its loss.

    batch holds "x" [N, ...], "y" (the targets) and "weight" (shape of the per-item losses: [N] or [N, T]).
    value = sum(weight * loss of each item) + penalties, and grads is its derivative in params.
    """

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
        y, cache = model.forward(params, batch["x"], ctx)
        value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
        dy = loss.backward(loss_cache)  # BP1
        _, grads = model.backward(params, cache, dy)  # BP2, BP3, BP4
        return Result(value, grads, state_after(model, ctx, cache), y)

    return penalized(run, penalties)


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
        return layer.forward(params, x, ctx)[0]

    def forward(params: PyTree, x: PyTree, ctx: Context) -> tuple[PyTree, PyTree]:
        y, cache = layer.forward(params, x, ctx)
        return y, (params, cache)

    def backward(residuals: tuple[PyTree, PyTree], dy: PyTree) -> tuple[PyTree, PyTree, None]:
        params, cache = residuals
        dx, grads = layer.backward(params, cache, dy)
        return grads, dx, None

    apply.defvjp(forward, backward)
    return apply
