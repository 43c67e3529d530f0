"""The Gauss-Newton and Fisher matrices entry by entry: their square roots, diagonals and rows of the Jacobian.

The loss of a batch has, in the outputs y, the block-diagonal Hessian H = d^2 sum w l / dy^2, one block an item. Deltas
R_k like y with sum_k R_k R_k^T = H, sent back through the model, are the roots of the whole matrix:

    J^T H J = sum_k (J^T R_k)(J^T R_k)^T,      J = dy / dparams

and since examples do not meet, each example's part of J^T R_k is one row. So the matrix, its diagonal and its Kronecker
factors are what the factors of some reverse sweeps say, and no loss needs a second-order method of its own.

    roots      of H, exact: its eigenvectors, one delta for each output                                K = O
    sampled    E[R R^T] = H: the delta of a target drawn from the model's distribution                 K = 1
    empirical  the delta of the data's own target: sum w g g^T, the empirical Fisher matrix            K = 1

Diagonal Gauss-Newton: Dangel, Kunstner & Hennig 2020, arXiv 1912.10985, section 2.3. Items along a sequence share their
weights, so exact sums take them one by one: `direction`.
"""
from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.analysis.products import LIKELIHOODS
from jaxbp.backprop import factors
from jaxbp.core import Context, Layer, PyTree
from jaxbp.errors import InputError, unknown
from jaxbp.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from jaxbp.outer import Outer, total

Batch = dict[str, PyTree]
Kind = Literal["gauss_newton", "empirical"]


def roots(loss: Loss, y: jax.Array, batch: Batch) -> jax.Array:
    """[O, *y.shape]: exact, for a loss that is convex in the outputs; y [N, ..., O]."""
    unit = batch | {"weight": jnp.ones_like(batch["weight"])}
    column = lambda e: jax.jvp(lambda y: _delta(loss, y, unit), (y,), (jnp.broadcast_to(e, y.shape),))[1]
    hessian = jnp.moveaxis(jax.vmap(column)(jnp.eye(y.shape[-1], dtype=y.dtype)), 0, -1)  # [N, ..., O, O]
    values, vectors = jnp.linalg.eigh(hessian)
    half = vectors * jnp.sqrt(jnp.maximum(values, 0) * batch["weight"][..., None])[..., None, :].astype(y.dtype)
    return jnp.moveaxis(half, -1, 0)


def sampled(loss: Loss, y: jax.Array, batch: Batch, key: jax.Array) -> jax.Array:
    """[1, *y.shape]. Raises InputError for a loss that is no negative log-likelihood in its natural parameters."""
    if not isinstance(loss, LIKELIHOODS):
        raise InputError(f"sampled: {type(loss).__name__} is no negative log-likelihood, so no target can be drawn")
    if isinstance(loss, SoftmaxCrossEntropy):
        target, loss = jax.random.categorical(key, y), SoftmaxCrossEntropy()
    elif isinstance(loss, BinaryCrossEntropy):
        target, loss = jax.random.bernoulli(key, jax.nn.sigmoid(y)).astype(y.dtype), BinaryCrossEntropy()
    else:
        target = y + jax.random.normal(key, y.shape, y.dtype) / (2 * loss.factor(y.shape[-1])) ** 0.5
    return _delta(loss, y, batch | {"y": target, "weight": jnp.sqrt(batch["weight"])})[None]


def empirical(loss: Loss, y: jax.Array, batch: Batch) -> jax.Array:
    """[1, *y.shape]."""
    return _delta(loss, y, batch | {"weight": jnp.sqrt(batch["weight"])})[None]


def directions(of: jax.Array) -> int:
    """How many `direction` makes of these roots: as many for each item of an example."""
    return len(of) * prod(of.shape[2:-1])


def direction(of: jax.Array, index: jax.Array) -> jax.Array:
    """Root number `index` with one item of every example; the items of [K, N, *items, O] are the axes in the middle."""
    items = of.shape[2:-1]
    chosen = (jnp.arange(prod(items)) == index // len(of)).reshape(*items, 1)
    return jnp.where(chosen, of[index % len(of)], 0)


def rows(model: Layer, params: PyTree, cache: PyTree, of: jax.Array) -> PyTree:
    """Like params with two leading axes [K, N]: each example's part of J^T R_k, for every direction of the roots."""
    def one(index: jax.Array) -> PyTree:
        outers = model.sweep(factors, params, cache, direction(of, index))[1]
        return jax.tree.map(lambda p, o: jnp.moveaxis(o.examples(), -3, 0).reshape(-1, *p.shape), params, outers)

    return jax.vmap(one)(jnp.arange(directions(of)))


def summed(
    model: Layer, params: PyTree, cache: PyTree, of: jax.Array, one: Callable[[Outer], PyTree]
) -> PyTree:
    """Like params: the sum over all directions of `one` of each leaf's factors, a sweep at a time in memory."""

    def sweep(index: jax.Array) -> PyTree:
        outers = model.sweep(factors, params, cache, direction(of, index))[1]
        return jax.tree.map(one, outers, is_leaf=lambda node: isinstance(node, Outer))

    return total(sweep, jnp.arange(directions(of)))


def diagonal(model: Layer, loss: Loss, kind: Kind) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, the exact diagonal of J^T H J or of the empirical Fisher matrix.

    Costs as many reverse sweeps as an example has items times outputs, or items. Raises InputError for another kind,
    and where a layer couples the examples of a batch.
    """
    if kind not in ("gauss_newton", "empirical"):
        raise unknown("diagonal kind", kind, ("gauss_newton", "empirical"))

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        y, cache = model.forward(params, batch["x"], ctx)
        of = roots(loss, y, batch) if kind == "gauss_newton" else empirical(loss, y, batch)
        squares = summed(model, params, cache, of, lambda outer: outer.second_moment())
        return jax.tree.map(lambda p, s: s.reshape(p.shape), params, squares)

    return run


def _delta(loss: Loss, y: jax.Array, batch: Batch) -> jax.Array:
    return loss.backward(loss.forward(y, batch["y"], batch["weight"])[1])
