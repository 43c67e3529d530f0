"""Kronecker factors of the curvature: for each weight two small matrices in place of one with (O I)^2 entries.

With dw = sum g a^T, a layer's block of the Gauss-Newton or Fisher matrix is near

    rows (x) columns,     rows = sum g g^T [O, O],     columns = mean a a^T [I, I]

exact where a and g are independent, as in one linear layer with squared error (Martens & Grosse 2015, arXiv 1503.05671;
convolutions: Grosse & Martens 2016, arXiv 1602.01407; recurrent and other shared weights: Martens, Ba & Johnson 2018,
and "expand" and "reduce" by Eschenhagen et al. 2023, arXiv 2311.00636). Weight and bias are blocks of their own.

In the basis of its eigenvectors the product is diagonal. The best diagonal there is not the product of eigenvalues but
the second moment of the gradients (George et al. 2018, arXiv 1806.03884): `corrected`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.analysis.curvature import Roots, summed
from jaxbp.core import Layer, PyTree, register
from jaxbp.factors import Factors, Sharing, total


@partial(register, data_fields=["rows", "columns"], meta_fields=["shape"])
@dataclass(frozen=True)
class Kronecker:
    """rows [..., O, O] (or [O] where diagonal) and columns [..., I, I] of a parameter of that shape."""

    rows: jax.Array
    columns: jax.Array
    shape: tuple[int, ...]

    @property
    def diagonal_rows(self) -> bool:
        """Whether rows is the diagonal of a matrix, as for a table of embeddings."""
        return self.rows.ndim < self.columns.ndim

    def dense(self) -> jax.Array:
        """The matrix [P, P] of a parameter with P entries."""
        rows = jnp.diag(self.rows) if self.diagonal_rows else self.rows
        blocks = jax.vmap(jnp.kron)(*(a.reshape(-1, *a.shape[-2:]) for a in (rows, self.columns)))
        return jax.scipy.linalg.block_diag(*blocks)

    def eigen(self) -> Eigen:
        """Its eigenvectors and eigenvalues."""
        of_rows, rows = (self.rows, None) if self.diagonal_rows else jnp.linalg.eigh(self.rows)
        of_columns, columns = jnp.linalg.eigh(self.columns)
        return Eigen(rows, columns, of_rows[..., :, None] * of_columns[..., None, :], self.shape)


@partial(register, data_fields=["rows", "columns", "values"], meta_fields=["shape"])
@dataclass(frozen=True)
class Eigen:
    """A matrix that is diagonal in a basis of Kronecker products: its eigenvalues are values [..., O, I]."""

    rows: jax.Array | None  # [..., O, O], a column an eigenvector; None where they are the unit vectors
    columns: jax.Array  # [..., I, I]
    values: jax.Array
    shape: tuple[int, ...]

    def solve(self, v: jax.Array, damping: jax.Array) -> jax.Array:
        """(matrix + damping)^-1 v for v like the parameter; eigenvalues below zero by rounding are zero."""
        v = self.turned(v.reshape(self.values.shape)) / (jnp.maximum(self.values, 0) + damping)
        v = jnp.einsum("...oi,...ji->...oj", v, self.columns)
        v = v if self.rows is None else jnp.einsum("...oi,...po->...pi", v, self.rows)
        return v.reshape(self.shape)

    def turned(self, v: jax.Array) -> jax.Array:
        """rows^T v columns."""
        v = jnp.einsum("...oj,...ji->...oi", v, self.columns)
        return v if self.rows is None else jnp.einsum("...pi,...po->...oi", v, self.rows)


def factors(model: Layer, params: PyTree, cache: PyTree, roots: Roots, weight: jax.Array, sharing: Sharing) -> PyTree:
    """Like params, a Kronecker each, of the loss's curvature at the outputs (see `curvature`).

    weight [N]: each example's share of the activations, adding up to one.
    """
    share = weight / roots.count  # every sweep meets the same activations
    pairs = summed(model, params, cache, roots, lambda outer: outer.moments(share, sharing))
    return jax.tree.map(lambda p, pair: Kronecker(*pair, p.shape), params, pairs)


def eigen(factors: PyTree) -> PyTree:
    """Like params, an Eigen each."""
    return jax.tree.map(Kronecker.eigen, factors, is_leaf=lambda node: isinstance(node, Kronecker))


def corrected(model: Layer, params: PyTree, cache: PyTree, roots: Roots, bases: PyTree) -> PyTree:
    """The bases with second moments of the gradients for eigenvalues: the diagonal nearest to the matrix in them."""
    values = summed(model, params, cache, roots, _moment_in, bases)
    keep = lambda basis, v: replace(basis, values=v.reshape(basis.values.shape))
    return jax.tree.map(keep, bases, values, is_leaf=lambda node: isinstance(node, Eigen))


def _moment_in(outer: Factors, basis: Eigen) -> jax.Array:
    """[..., O, I]: the sum over the examples of the squares of their gradients, in the basis."""
    if outer.a.ndim > outer.axes:
        return jax.lax.map(lambda entry: _moment_in(*entry), (outer, basis))
    if outer.single:
        return Factors(jnp.square(outer.a @ basis.columns), jnp.square(outer.g @ basis.rows)).gradient()
    turned = lambda dw: basis.turned(dw.reshape(basis.values.shape))
    return total(lambda a, g: jnp.square(turned(outer.alone(a, g))), outer.a, outer.g)
