"""Rules: what one reverse sweep takes at every leaf layer, `model.sweep(rule, params, cache, dy)`.

N layers and M rules need N + M pieces of code, because no layer knows any rule and no rule knows any layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Layer, PyTree, Running, Shared, add, label
from jaxbp.errors import InputError
from jaxbp.factors import Factors, tree_map


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


def mixes_examples(layer: Layer, cache: PyTree) -> bool:
    """Whether one example's output depended on another example in the pass that left `cache`."""
    is_running = lambda node: isinstance(node, Running)
    return layer.couples_batch and not any(map(is_running, jax.tree.leaves(cache, is_leaf=is_running)))


def _gradient(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    return layer.backward(params, cache, dy)


def _delta(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    return layer.backward(params, cache, dy)[0], dy


def _example_gradients(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    if mixes_examples(layer, cache):
        raise InputError(f"per-example gradients are undefined here: '{label(layer)}' mixes the examples of a batch")
    is_shared = lambda node: isinstance(node, Shared)
    axes = jax.tree.map(lambda node: None if is_shared(node) else 0, cache, is_leaf=is_shared)
    rows = jax.tree.map(lambda node: node if is_shared(node) else node[:, None], cache, is_leaf=is_shared)
    dy_rows = jax.tree.map(lambda d: d[:, None], dy)  # each example a batch of one
    gradients = lambda cache, dy: layer.backward(params, cache, dy)[1]
    grads = jax.vmap(gradients, in_axes=(axes, 0))(rows, dy_rows)
    return layer.backward(params, cache, dy)[0], grads


def _factors(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    factors = layer.factors(params, cache, dy)
    others = sorted(set(params) - set(factors))
    take = _example_gradients if others or mixes_examples(layer, cache) else _gradient
    dx, grads = take(layer, params, cache, dy)
    own = {name: grads[name].reshape(len(grads[name]), 1, -1) for name in others}  # each example's gradient, times one
    return dx, factors | {name: Factors(jnp.ones_like(g[..., :1]), g) for name, g in own.items()}


def _concatenate(factors: PyTree, other: PyTree) -> PyTree:
    return tree_map(lambda a, b: a.concatenated(b), factors, other)


gradient = Rule(_gradient, merge=add)
"""The batch's gradient, like params. Swept with other params than the forward pass had, it is feedback alignment."""

delta = Rule(_delta)
"""dy at the output of every leaf layer."""

example_gradients = Rule(_example_gradients, merge=add)
"""Each example's gradient: params' tree with a leading batch axis. Sweep with dy of weight one."""

factors = Rule(_factors, merge=_concatenate)
"""{leaf: Factors} at every layer: the activation and the delta behind each gradient."""
