"""Backpropagation on one page: the gradient of a model's loss, the rules of the reverse sweep, and the custom_vjp door.

A rule is what one reverse sweep takes at every leaf layer. N layers and M rules need N + M pieces of code, because no
layer knows any rule and no rule knows any layer: `model.sweep(rule, params, cache, dy)`.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, Shared, label
from jaxbp.errors import InputError
from jaxbp.outer import Outer


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

    def run(params: PyTree, batch: dict[str, PyTree], ctx: Context = Context()) -> Result:
        y, cache = model.forward(params, batch["x"], ctx)
        value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
        dy = loss.backward(loss_cache)  # BP1
        _, grads = model.backward(params, cache, dy)  # BP2, BP3, BP4
        state = None if ctx.state is None else model.next_state(ctx.state, cache)
        return Result(value, grads, state, y)

    return penalized(run, penalties)


def penalized(gradient: Callable[..., Result], penalties: Sequence[Any]) -> Callable[..., Result]:
    """`gradient` with the value and the gradient of penalties on the parameters added, once."""

    def run(params: PyTree, batch: dict[str, PyTree], ctx: Context = Context()) -> Result:
        value, grads, state, output = gradient(params, batch, ctx)
        for penalty in penalties:
            value, grads = value + penalty.value(params), add(grads, penalty.gradient(params))
        return Result(value, grads, state, output)

    return run


@dataclass(frozen=True)
class Rule:
    """`take` at every leaf: (layer, params, cache, dy) -> (dx, output).

    merge(output, output) joins the outputs of the uses of one tied parameter, under the owner's name; without it each
    use keeps its own.
    """

    take: Callable[[Layer, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
    merge: Callable[[PyTree, PyTree], PyTree] | None = None

    def __call__(self, layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        return self.take(layer, params, cache, dy)


def add(tree: PyTree, other: PyTree) -> PyTree:
    """Leaf by leaf sum of two equal trees."""
    return jax.tree.map(jnp.add, tree, other)


def _gradient(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    return layer.backward(params, cache, dy)


def _delta(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    return layer.backward(params, cache, dy)[0], dy


def _example_gradients(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    if layer.couples_batch:
        raise InputError(f"there are no per-example gradients through '{label(layer)}': it couples a batch's examples")
    is_shared = lambda node: isinstance(node, Shared)
    axes = jax.tree.map(lambda node: None if is_shared(node) else 0, cache, is_leaf=is_shared)
    alone = jax.tree.map(lambda node: node if is_shared(node) else node[:, None], cache, is_leaf=is_shared)
    one = lambda cache, dy: layer.backward(params, cache, dy)[1]
    grads = jax.vmap(one, in_axes=(axes, 0))(alone, jax.tree.map(lambda d: d[:, None], dy))
    return layer.backward(params, cache, dy)[0], grads


def _factors(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    known = layer.factors(params, cache, dy)
    others = sorted(set(params) - set(known))
    dx, grads = (_example_gradients if others or layer.couples_batch else _gradient)(layer, params, cache, dy)
    own = {name: grads[name].reshape(len(grads[name]), 1, -1) for name in others}  # each example's gradient, times one
    return dx, known | {name: Outer(jnp.ones_like(g[..., :1]), g) for name, g in own.items()}


def _concatenate(factors: PyTree, other: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.joined(b), factors, other, is_leaf=lambda node: isinstance(node, Outer))


gradient = Rule(_gradient, merge=add)
"""The batch's gradient, like params. Swept with other params than the forward pass had, it is feedback alignment."""

delta = Rule(_delta)
"""dy at the output of every leaf layer."""

example_gradients = Rule(_example_gradients, merge=add)
"""Each example's gradient: params' tree with a leading batch axis. Sweep with dy of weight one."""

factors = Rule(_factors, merge=_concatenate)
"""{leaf: Outer} at every layer: the activation and the delta behind each gradient."""


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

    def backward(kept: PyTree, dy: PyTree) -> tuple[PyTree, PyTree, None]:
        dx, grads = layer.backward(*kept, dy)
        return grads, dx, None

    apply.defvjp(forward, backward)
    return apply
