"""The Gauss-Newton and Fisher matrices entry by entry: their square roots, diagonals and rows of the Jacobian.

The loss of a batch has, in the outputs y, the block-diagonal Hessian H = d^2 sum w l / dy^2, one block an item. Deltas
R_k like y with sum_k R_k R_k^T = H, sent back through the model, are the roots of the whole matrix:

    J^T H J = sum_k (J^T R_k)(J^T R_k)^T,      J = dy / dparams

and since examples do not meet, each example's part of J^T R_k is one row. So the matrix, its diagonal and its Kronecker
factors are what the factors of some reverse sweeps say, and no loss needs a second-order method of its own.

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

from jaxbp.analysis.products import LIKELIHOODS, delta
from jaxbp.core import Batch, Context, Layer, PyTree
from jaxbp.errors import InputError, unknown
from jaxbp.factors import Factors, total
from jaxbp.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from jaxbp.rules import factors

Kind = Literal["gauss_newton", "empirical"]


@dataclass(frozen=True)
class Roots:
    """Deltas of [K, N, *items, O] like y. split: each item of a sequence is a delta of its own, else all are one."""

    of: jax.Array
    split: bool

    @property
    def count(self) -> int:
        """How many reverse sweeps they make."""
        return len(self.of) * (prod(self.of.shape[2:-1]) if self.split else 1)

    def __getitem__(self, index: jax.Array) -> jax.Array:
        """Delta number `index`, which may be traced."""
        items = self.of.shape[2:-1]
        chosen = (jnp.arange(prod(items)) == index // len(self.of)).reshape(*items, 1)
        whole = self.of[index % len(self.of)]
        return jnp.where(chosen, whole, 0) if self.split else whole


def exact(loss: Loss, y: jax.Array, batch: Batch) -> Roots:
    """K = O, for a loss that is convex in the outputs; y [N, ..., O]."""
    unit = batch | {"weight": jnp.ones_like(batch["weight"])}
    column = lambda e: jax.jvp(lambda y: delta(loss, y, unit), (y,), (jnp.broadcast_to(e, y.shape),))[1]
    hessian = jnp.moveaxis(jax.vmap(column)(jnp.eye(y.shape[-1], dtype=y.dtype)), 0, -1)  # [N, ..., O, O]
    values, vectors = jnp.linalg.eigh(hessian)
    half = vectors * jnp.sqrt(jnp.maximum(values, 0) * batch["weight"][..., None])[..., None, :].astype(y.dtype)
    return Roots(jnp.moveaxis(half, -1, 0), split=True)


def sampled(loss: Loss, y: jax.Array, batch: Batch, key: jax.Array) -> Roots:
    """K = 1. Raises InputError for a loss that is no negative log-likelihood in its natural parameters."""
    if not isinstance(loss, LIKELIHOODS):
        raise InputError(f"sampled: {type(loss).__name__} is no negative log-likelihood, so no target can be drawn")
    if isinstance(loss, SoftmaxCrossEntropy):
        target, loss = jax.random.categorical(key, y), SoftmaxCrossEntropy()
    elif isinstance(loss, BinaryCrossEntropy):
        target, loss = jax.random.bernoulli(key, jax.nn.sigmoid(y)).astype(y.dtype), BinaryCrossEntropy()
    else:
        target = y + jax.random.normal(key, y.shape, y.dtype) / (2 * loss.factor(y.shape[-1])) ** 0.5
    drawn = delta(loss, y, batch | {"y": target, "weight": jnp.sqrt(batch["weight"])})
    return Roots(drawn[None], split=False)  # items are drawn independently: their products vanish in the mean


def empirical(loss: Loss, y: jax.Array, batch: Batch) -> Roots:
    """K = 1, each item's delta."""
    return Roots(delta(loss, y, batch | {"weight": jnp.sqrt(batch["weight"])})[None], split=True)


def rows(model: Layer, params: PyTree, cache: PyTree, roots: Roots) -> jax.Array:
    """A [K N, P] with A^T A = J^T H J: each example's part of J^T R_k, root by root; columns as in ravel_pytree."""

    def one(index: jax.Array) -> jax.Array:
        outers = jax.tree.leaves(
            model.sweep(factors, params, cache, roots[index])[1], is_leaf=lambda node: isinstance(node, Factors)
        )
        return jnp.concatenate([jnp.moveaxis(o.examples(), -3, 0).reshape(roots.of.shape[1], -1) for o in outers], 1)

    a = jax.vmap(one)(jnp.arange(roots.count))
    return a.reshape(-1, a.shape[-1])


def summed(model: Layer, params: PyTree, cache: PyTree, roots: Roots, one: Callable, *others: PyTree) -> PyTree:
    """Like params: the sum over all roots of `one` of each leaf's factors (and of `others`), a sweep at a time."""

    def sweep(index: jax.Array) -> PyTree:
        outers = model.sweep(factors, params, cache, roots[index])[1]
        return jax.tree.map(one, outers, *others, is_leaf=lambda node: isinstance(node, Factors))

    return total(sweep, jnp.arange(roots.count))


def diagonal(model: Layer, loss: Loss, kind: Kind) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, the exact diagonal of J^T H J or of the empirical Fisher matrix.

    Costs as many reverse sweeps as an example has items times outputs, or items. Raises InputError for another kind,
    and where a layer couples the examples of a batch.
    """
    if kind not in ("gauss_newton", "empirical"):
        raise unknown("diagonal kind", kind, ("gauss_newton", "empirical"))

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        y, cache = model.forward(params, batch["x"], ctx)
        roots = exact(loss, y, batch) if kind == "gauss_newton" else empirical(loss, y, batch)
        squares = summed(model, params, cache, roots, lambda outer: outer.second_moment())
        return jax.tree.map(lambda p, s: s.reshape(p.shape), params, squares)

    return run
