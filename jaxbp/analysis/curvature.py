"""The Gauss-Newton and Fisher matrices entry by entry: their square roots, diagonals and rows of the Jacobian.

The loss of a batch has, in the outputs y, the block-diagonal Hessian H = d^2 sum w l / dy^2, one block an item. Deltas
R_k like y with sum_k R_k R_k^T = H, sent back through the model, are the roots of the whole matrix:

    J^T H J = sum_k (J^T R_k)(J^T R_k)^T,      J = dy / dparams

The examples of a batch do not mix, so each example's part of J^T R_k is one row. The matrix, its diagonal and its
Kronecker factors therefore follow from the factors of a few reverse sweeps, and no loss needs a second-order method.

    exact      the eigenvectors of H, one delta for each output                                        K = O
    sampled    E[R R^T] = H: the delta of a target drawn from the model's distribution                 K = 1
    empirical  the delta of the data's own target: sum w g g^T, the empirical Fisher matrix            K = 1

Diagonal Gauss-Newton: Dangel, Kunstner & Hennig 2020, arXiv 1912.10985, section 2.3. Items along a sequence share their
weights, so exact sums take them one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp import rules
from jaxbp.analysis.products import output_delta
from jaxbp.core import Batch, Context, Layer, PyTree
from jaxbp.errors import InputError, unknown
from jaxbp.factors import total, tree_map
from jaxbp.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy, SquaredError

Kind = Literal["gauss_newton", "empirical"]


@dataclass(frozen=True)
class Roots:
    """The roots R_k, made of deltas [K, N, *items, O]. per_item: each item of a sequence makes its own K roots."""

    deltas: jax.Array
    per_item: bool

    @property
    def count(self) -> int:
        """The number of roots, and of reverse sweeps that they take."""
        return len(self.deltas) * (prod(self.deltas.shape[2:-1]) if self.per_item else 1)

    def __getitem__(self, number: jax.Array) -> jax.Array:
        """[N, *items, O]: root `number`, which may be traced."""
        item = number // len(self.deltas)
        delta = self.deltas[number % len(self.deltas)]
        return only_item(delta, item) if self.per_item else delta


def only_item(delta: jax.Array, item: jax.Array) -> jax.Array:
    """delta [N, *items, O] with zeros for all items but one, whose number may be traced."""
    items = delta.shape[1:-1]
    chosen = (jnp.arange(prod(items)) == item).reshape(*items, 1)
    return jnp.where(chosen, delta, 0)


def exact(loss: Loss, y: jax.Array, batch: Batch) -> Roots:
    """K = O, for a loss that is convex in the outputs; y [N, ..., O]."""
    unit = batch | {"weight": jnp.ones_like(batch["weight"])}
    column = lambda e: jax.jvp(lambda y: output_delta(loss, y, unit), (y,), (jnp.broadcast_to(e, y.shape),))[1]
    hessian = jnp.moveaxis(jax.vmap(column)(jnp.eye(y.shape[-1], dtype=y.dtype)), 0, -1)  # [N, ..., O, O]
    values, vectors = jnp.linalg.eigh(hessian)
    weight = batch["weight"][..., None]
    half = vectors * jnp.sqrt(jnp.maximum(values, 0) * weight)[..., None, :].astype(y.dtype)
    half = jnp.where(weight[..., None] == 0, 0, half)  # where nothing counts, a target may be nan
    return Roots(jnp.moveaxis(half, -1, 0), per_item=True)


def sampled(loss: Loss, y: jax.Array, batch: Batch, key: jax.Array) -> Roots:
    """K = 1. Items are drawn independently, so all make one root: their products are zero on average.

    Raises InputError for a loss that is not a negative log-likelihood in its natural parameters.
    """
    if not (isinstance(loss, BinaryCrossEntropy | SoftmaxCrossEntropy | SquaredError) and loss.is_likelihood):
        raise InputError(f"sampled: {type(loss).__name__} is not a negative log-likelihood, so no target can be drawn")
    if isinstance(loss, SoftmaxCrossEntropy):
        target = jax.random.categorical(key, y)
        loss = SoftmaxCrossEntropy()
    elif isinstance(loss, BinaryCrossEntropy):
        target = jax.random.bernoulli(key, jax.nn.sigmoid(y)).astype(y.dtype)
        loss = BinaryCrossEntropy()
    else:
        target = y + jax.random.normal(key, y.shape, y.dtype) / (2 * loss.factor(y.shape[-1])) ** 0.5
    delta = output_delta(loss, y, batch | {"y": target, "weight": jnp.sqrt(batch["weight"])})
    return Roots(delta[None], per_item=False)


def empirical(loss: Loss, y: jax.Array, batch: Batch) -> Roots:
    """K = 1, each item's delta."""
    delta = output_delta(loss, y, batch | {"weight": jnp.sqrt(batch["weight"])})
    return Roots(delta[None], per_item=True)


def rows(model: Layer, params: PyTree, cache: PyTree, roots: Roots) -> jax.Array:
    """A [K N, P] with A^T A = J^T H J: each example's part of J^T R_k, root by root; columns as in ravel_pytree."""

    def of_root(number: jax.Array) -> jax.Array:
        """[N, P]."""
        _, factors = model.sweep(rules.factors, params, cache, roots[number])
        gradients = tree_map(lambda leaf: jnp.moveaxis(leaf.example_gradients(), -3, 0), factors)
        return jnp.concatenate([g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)], 1)

    a = jax.vmap(of_root)(jnp.arange(roots.count))
    return a.reshape(-1, a.shape[-1])


def sum_over_roots(
    model: Layer, params: PyTree, cache: PyTree, roots: Roots, term: Callable[..., PyTree], *trees: PyTree
) -> PyTree:
    """Like params: the sum over all roots of term(factors, ...) of each leaf, with the leaf's parts of `trees`.

    One reverse sweep at a time.
    """

    def of_root(number: jax.Array) -> PyTree:
        _, factors = model.sweep(rules.factors, params, cache, roots[number])
        return tree_map(term, factors, *trees)

    return total(of_root, jnp.arange(roots.count))


def diagonal(model: Layer, loss: Loss, kind: Kind) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, the exact diagonal of J^T H J or of the empirical Fisher matrix.

    An example costs a reverse sweep for each of its items and outputs, or for each item. Raises InputError for another
    kind, and where a layer mixes the examples of a batch.
    """
    if kind not in ("gauss_newton", "empirical"):
        raise unknown("diagonal kind", kind, ("gauss_newton", "empirical"))

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        x, ctx = ctx.counted(batch)
        y, cache = model.forward(params, x, ctx)
        roots = exact(loss, y, batch) if kind == "gauss_newton" else empirical(loss, y, batch)
        squares = sum_over_roots(model, params, cache, roots, lambda leaf: leaf.second_moment())
        return jax.tree.map(lambda p, s: s.reshape(p.shape), params, squares)

    return run
