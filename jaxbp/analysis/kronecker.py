"""Kronecker factors of the curvature: for each weight two small matrices in place of one with (O I)^2 entries.

With dw = sum g a^T, a layer's block of the Gauss-Newton or Fisher matrix is near

    G (x) A,     G = sum g g^T [O, O],     A = mean a a^T [I, I]

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

from jaxbp.analysis.curvature import Roots, sum_over_roots
from jaxbp.core import Layer, PyTree, register
from jaxbp.factors import Factors, Sharing, total


@partial(register, data_fields=["g", "a"], meta_fields=["shape"])
@dataclass(frozen=True)
class Kronecker:
    """The matrix g (x) a of a parameter of that shape: g [..., O, O], or its diagonal [..., O], and a [..., I, I]."""

    g: jax.Array
    a: jax.Array
    shape: tuple[int, ...]

    @property
    def g_is_diagonal(self) -> bool:
        """Whether g is the diagonal of a matrix, as for a table of embeddings."""
        return self.g.ndim < self.a.ndim

    def dense(self) -> jax.Array:
        """The matrix [P, P] of a parameter with P entries."""
        g = jnp.diag(self.g) if self.g_is_diagonal else self.g
        matrices = lambda stack: stack.reshape(-1, *stack.shape[-2:])
        return jax.scipy.linalg.block_diag(*jax.vmap(jnp.kron)(matrices(g), matrices(self.a)))

    def eigen(self) -> Eigen:
        """Its eigenvectors and eigenvalues."""
        g_values, g = (self.g, None) if self.g_is_diagonal else jnp.linalg.eigh(self.g)
        a_values, a = jnp.linalg.eigh(self.a)
        return Eigen(g, a, g_values[..., :, None] * a_values[..., None, :], self.shape)


@partial(register, data_fields=["g", "a", "values"], meta_fields=["shape"])
@dataclass(frozen=True)
class Eigen:
    """A matrix that is diagonal in the basis g (x) a, with its eigenvalues values [..., O, I]."""

    g: jax.Array | None  # [..., O, O], each column a vector of the basis; None where they are the unit vectors
    a: jax.Array  # [..., I, I]
    values: jax.Array
    shape: tuple[int, ...]

    def solve(self, v: jax.Array, damping: jax.Array | float) -> jax.Array:
        """(matrix + damping)^-1 v for v like the parameter; eigenvalues below zero by rounding count as zero."""
        v = self.project(v.reshape(self.values.shape)) / (jnp.maximum(self.values, 0) + damping)
        v = jnp.einsum("...oi,...ji->...oj", v, self.a)
        v = v if self.g is None else jnp.einsum("...oi,...po->...pi", v, self.g)
        return v.reshape(self.shape)

    def project(self, v: jax.Array) -> jax.Array:
        """The coordinates of v [..., O, I] in the basis: g^T v a."""
        v = jnp.einsum("...oj,...ji->...oi", v, self.a)
        return v if self.g is None else jnp.einsum("...pi,...po->...oi", v, self.g)


def estimated(model: Layer, params: PyTree, cache: PyTree, roots: Roots, weight: jax.Array, sharing: Sharing) -> PyTree:
    """Like params, a Kronecker each, of the loss's curvature at the outputs (see `curvature`).

    weight [N]: each example's share of the activations, adding up to one.
    """
    share = weight / roots.count  # every sweep meets the same activations
    pairs = sum_over_roots(model, params, cache, roots, lambda leaf: leaf.kronecker(share, sharing))
    return jax.tree.map(lambda p, pair: Kronecker(g=pair[0], a=pair[1], shape=p.shape), params, pairs)


def eigen(factors: PyTree) -> PyTree:
    """Like params, an Eigen each."""
    return jax.tree.map(Kronecker.eigen, factors, is_leaf=lambda node: isinstance(node, Kronecker))


def corrected(model: Layer, params: PyTree, cache: PyTree, roots: Roots, bases: PyTree) -> PyTree:
    """The bases with second moments of the gradients for eigenvalues: the diagonal nearest to the matrix in them."""
    moments = sum_over_roots(model, params, cache, roots, _second_moment, bases)
    with_values = lambda _, basis, moment: replace(basis, values=moment.reshape(basis.values.shape))
    return jax.tree.map(with_values, params, bases, moments)


def _second_moment(factors: Factors, basis: Eigen) -> jax.Array:
    """[..., O, I]: the sum over the examples of the squares of their gradients, in the basis."""
    if factors.leading:
        return jax.lax.map(lambda entry: _second_moment(*entry), (factors, basis))
    if factors.is_outer_product:
        g = factors.g if basis.g is None else factors.g @ basis.g
        return Factors(jnp.square(factors.a @ basis.a), jnp.square(g)).gradient()

    def of_example(a: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.square(basis.project(factors.example_gradient(a, g).reshape(basis.values.shape)))

    return total(of_example, factors.a, factors.g)
