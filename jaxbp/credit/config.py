"""The base of every credit rule's config, and how what a rule keeps travels with a step.

A rule gives a function like value_and_grad, (params, batch, ctx) -> Result, whose `grads` need not be the gradient.
What it keeps from step to step, such as backward weights, is `Carried` in the context's state, beside the model's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax

from jaxbp.backprop import Result, item_weights, value_and_grad
from jaxbp.core import Batch, Context, Layer, PyTree, entry, register, state_after
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.typed import Typed


@partial(register, data_fields=["model", "credit"], meta_fields=[])
@dataclass(frozen=True)
class Carried:
    """The state of a step: that of the model, and what its credit rule keeps."""

    model: PyTree
    credit: PyTree


def carrying(ctx: Context, credit: PyTree) -> Context:
    """The context with what a credit rule keeps beside the model's state; unchanged where there is no such rule."""
    return ctx if credit is None else replace(ctx, state=Carried(ctx.state, credit))


def parted(state: PyTree) -> tuple[PyTree, PyTree]:
    """-> (the model's state, what the credit rule keeps); None where there is no such rule."""
    return (state.model, state.credit) if isinstance(state, Carried) else (state, None)


def example_weights(rule: str, batch: Batch, y: jax.Array) -> jax.Array:
    """[N]: the weight of each example's loss. Raises InputError where an example has several, as a sequence has."""
    weight = item_weights(batch, y)
    if weight.ndim != 1:
        raise InputError(f"{rule} needs outputs [N, O], one loss for each example, got {list(y.shape)}")
    return weight


@dataclass(frozen=True)
class Credit(Typed, ABC):
    """The base of every credit rule's config: how a step finds out which weight is to blame for the error."""

    exact: ClassVar[bool] = False  # whether its direction is the gradient

    @abstractmethod
    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        """The function (params, batch, ctx) -> Result in place of value_and_grad.

        ctx.state is Carried. Raises InputError, when it is traced, where the rule is not defined for the model.
        """
        raise NotImplementedError

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        """What the rule keeps, before the first step; spec: shape and dtype of a batch of inputs."""
        return {}

    def update(self, updates: PyTree, params: PyTree, kept: PyTree) -> tuple[PyTree, PyTree]:
        """-> (updates, kept) after the optimizer has made `updates` of the weights `params`."""
        return updates, kept


@dataclass(frozen=True)
class Backpropagation(Credit):
    """The reverse sweep through the transposed weights. Exact: its direction is the gradient."""

    exact: ClassVar[bool] = True

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        return value_and_grad(model, loss)

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        return None


@dataclass(frozen=True)
class Swept(Credit):
    """The base of rules that are one reverse sweep over the caches of an ordinary forward pass."""

    def check(self, model: Layer) -> None:
        """Raises InputError for a model that the rule is not defined for."""

    @abstractmethod
    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        """-> (grads like params, what is kept after the step)."""
        raise NotImplementedError

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        self.check(model)

        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)
            y, cache = model.forward(params, x, ctx)
            value, loss_cache = loss.forward(y, entry(batch, "y"), item_weights(batch, y))
            grads, kept = self.backward(model, params, cache, loss.backward(loss_cache), kept, ctx)
            return Result(value, grads, Carried(state_after(model, ctx, cache), kept), y)

        return run
