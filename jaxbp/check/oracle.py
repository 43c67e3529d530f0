"""The oracle: the gradient that JAX itself takes of the same forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxbp.backprop import Result
from jaxbp.core import Context, Layer, PyTree


def autodiff(model: Layer, loss: Any, penalties: Sequence[Any] = ()) -> Callable[..., Result]:
    """What jaxbp.value_and_grad is, by jax.value_and_grad of the model's and the loss's forward."""

    def value(params: PyTree, batch: dict[str, PyTree], ctx: Context) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        y, cache = model.forward(params, batch["x"], ctx)
        value, _ = loss.forward(y, batch["y"], batch["weight"])
        state = None if ctx.state is None else model.next_state(ctx.state, cache)
        return sum((penalty.value(params) for penalty in penalties), value), (state, y)

    def run(params: PyTree, batch: dict[str, PyTree], ctx: Context = Context()) -> Result:
        (found, (state, y)), grads = jax.value_and_grad(value, has_aux=True)(params, batch, ctx)
        return Result(found, grads, state, y)

    return run
