"""Link weights: the matrices through which a delta goes back to the layer below, and so what a rule can replace.

    Dense, Conv, ConvTranspose   w
    Recurrent                    wx, wh, and the wn of a GRU

Norms scale entry by entry, and no delta goes back through an embedding: both keep their own backward pass. Other layers
with parameters, such as attention, are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, layers_in
from jaxbp.errors import InputError
from jaxbp.layers import BatchNorm, Conv, ConvTranspose, Dense, Embedding, GroupNorm, LayerNorm, Recurrent, RMSNorm
from jaxbp.rules import Rule

Kinds = tuple[type[Layer], ...]
FEED_FORWARD: Kinds = (Dense, Conv, ConvTranspose)
LINKED: Kinds = (*FEED_FORWARD, Recurrent)
UNLINKED: Kinds = (BatchNorm, GroupNorm, LayerNorm, RMSNorm, Embedding)
LEAVES = ("w", "wx", "wh", "wn")


def link_names(rule: str, layer: Layer, params: PyTree, kinds: Kinds = LINKED, reason: str = "") -> list[str]:
    """The names of a leaf layer's link weights.

    Raises InputError for a layer that has weights and is none of `kinds`; reason: why a recurrent one is not. And for a
    recurrent layer whose backward pass makes its states again: it would do so with the weights of the way back.
    """
    if isinstance(layer, kinds):
        if isinstance(layer, Recurrent) and layer.keep != "all":
            raise InputError(f"{rule} needs Recurrent(keep='all'), which makes no state again, got keep='{layer.keep}'")
        return [name for name in LEAVES if name in params]
    if params and not isinstance(layer, UNLINKED):
        known = ", ".join(kind.__name__ for kind in kinds)
        why = reason if reason and isinstance(layer, Recurrent) else "its delta passes through weights of another kind"
        raise InputError(f"{rule} is not defined for {type(layer).__name__}, only for {known}: {why}")
    return []


def refuse(rule: str, model: Layer, kinds: Kinds, reason: str) -> None:
    """Raises InputError where a combinator of `kinds` is in the model."""
    for layer in layers_in(model):
        if isinstance(layer, kinds):
            raise InputError(f"{rule} is not defined for {type(layer).__name__}: {reason}")


def traced_sweep(
    take: Callable[[Layer, PyTree, PyTree, PyTree], Any], model: Layer, params: PyTree, spec: PyTree
) -> PyTree:
    """What `take(layer, params, cache, dy)` gives at every leaf layer, as shapes and dtypes; nothing is computed."""

    def rule(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        return layer.backward(params, cache, dy)[0], take(layer, params, cache, dy)

    def run(params: PyTree, x: PyTree) -> PyTree:
        y, cache = model.forward(params, x, Context(jax.random.key(0), model.init_state(spec)))
        dy = jax.tree.map(jnp.zeros_like, y)
        return model.sweep(Rule(rule, merge=lambda output, other: output), params, cache, dy)[1]

    return jax.eval_shape(run, params, spec)


def link_weights(rule: str, model: Layer, params: PyTree, spec: PyTree, kinds: Kinds = LINKED, why: str = "") -> PyTree:
    """The part of params that are link weights. Raises InputError as `link_names` does."""

    def take(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> PyTree:
        return {name: params[name] for name in link_names(rule, layer, params, kinds, why)}

    return picked(params, traced_sweep(take, model, params, spec))


def picked(params: PyTree, part: PyTree) -> PyTree:
    """The leaves of params at the paths that `part` has."""
    return {name: picked(params[name], child) for name, child in part.items()} if isinstance(part, dict) else params


def replaced(params: PyTree, part: PyTree) -> PyTree:
    """params with the leaves of `part` in place of those at the same paths."""
    if not isinstance(part, dict):
        return part
    return {name: replaced(child, part[name]) if name in part else child for name, child in params.items()}


def drawn_like(key: jax.Array, weights: PyTree, scale: float) -> PyTree:
    """Normal numbers like the weights, `scale` times as large: of each array's own root mean square."""
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(key, max(1, len(leaves)))
    size = lambda w: scale * jnp.sqrt(jnp.mean(w * w))
    drawn = [size(w) * jax.random.normal(k, w.shape, w.dtype) for k, w in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(tree, drawn)
