"""How far a credit rule's direction is from the gradient of the same batch, parameter by parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.backprop import value_and_grad
from jaxbp.core import Batch, Context, Layer, PyTree, path_name
from jaxbp.credit.config import Credit, carrying
from jaxbp.losses import Loss


class Alignment(NamedTuple):
    """Of one parameter. Where the gradient or the direction is zero, all three are 0."""

    cosine: float  # of the angle between direction and gradient: 1 is backpropagation, 0 a right angle
    signs: float  # share of the entries that have the same sign
    ratio: float  # length of the direction over that of the gradient


def alignment(direction: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three figures of an Alignment, for two arrays of one shape."""
    length, true_length = jnp.linalg.norm(direction.ravel()), jnp.linalg.norm(gradient.ravel())
    defined = (length > 0) & (true_length > 0)
    safe = lambda length: jnp.where(defined, length, 1)
    cosine = jnp.vdot(direction / safe(length), gradient / safe(true_length))
    signs = jnp.mean(jnp.sign(direction) == jnp.sign(gradient))
    ratio = length / safe(true_length)
    return jnp.where(defined, cosine, 0), jnp.where(defined, signs, 0), jnp.where(defined, ratio, 0)


Alignments = Callable[[PyTree, PyTree, PyTree, Batch, jax.Array], dict[str, Alignment]]


def make_alignments(rule: Credit, model: Layer, loss: Loss) -> Alignments:
    """(params, model state, what the rule keeps, batch, key) -> {path of a parameter: its Alignment}."""

    @jax.jit
    def compute(params: PyTree, state: PyTree, kept: PyTree, batch: Batch, key: jax.Array) -> PyTree:
        ctx = Context(key, state)
        direction = rule.gradient(model, loss)(params, batch, carrying(ctx, kept)).grads
        truth = value_and_grad(model, loss)(params, batch, ctx).grads
        return jax.tree.map(alignment, direction, truth)

    def alignments(params: PyTree, state: PyTree, kept: PyTree, batch: Batch, key: jax.Array) -> dict[str, Alignment]:
        figures = jax.device_get(compute(params, state, kept, batch, key))
        is_figure = lambda node: isinstance(node, tuple)
        leaves = jax.tree_util.tree_leaves_with_path(figures, is_leaf=is_figure)
        short = lambda figure: Alignment(*(float(f"{number:.4g}") for number in figure))
        return {path_name(path): short(figure) for path, figure in leaves}

    return alignments


def table(rule: Credit, alignments: Mapping[str, Sequence[float]]) -> str:
    """The lines that say how a rule departs from the gradient, a parameter a line."""
    width = max(map(len, alignments), default=0)
    lines = [f"{path:{width}}  {c:9.4f}  {s:9.4f}  {r:9.4g}" for path, (c, s, r) in alignments.items()]
    head = f"credit {rule}: " + ("the gradient itself" if rule.exact else "departs from the gradient on purpose")
    return "\n".join([head, f"{'':{width}}  {'cosine':>9}  {'same sign':>9}  {'length':>9}", *lines])
