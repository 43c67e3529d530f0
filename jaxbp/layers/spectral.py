"""Layers on matrices: functions of symmetric ones, eigenvalues with vectors, singular values with vectors.

    Spectral  Y = V g(w) V^T              dA = V (K * (V^T dY V)) V^T, K_ij = (g(w_i) - g(w_j)) / (w_i - w_j)
    Eigh      A = V diag(w) V^T           dA = V (diag(dw) + J / (w_j - w_i)) V^T,  J = skew part of V^T dV
    Svd       A = U diag(s) V^T           dA = U (diag(ds) + J+ / (s_j - s_i) + J- / (s_j + s_i)) V^T
                                               + (I - U U^T) dU S^-1 V^T + U S^-1 dV^T (I - V V^T)
                                          J+- = half the sum and the difference of 2 skew(U^T dU) and 2 skew(V^T dV)

(Ionescu, Vantzos & Sminchisescu 2015, arXiv 1509.07838; the middle of Svd in partial fractions of s_j^2 - s_i^2.)
Spectral is exact at equal eigenvalues: jaxbp.ops.spectral_functions. Eigh and Svd cannot be, for there the vectors are
any basis of a plane. So backward tests the delta's gauge. Where w_i = w_j up to `tolerance` times the largest |w|, it
needs J_ij = 0 and dw_i = dw_j: then the loss sees the plane alone, and the quotient counts as 0. Else the answer
depends on the choice of vectors: backward raises InputError; under jit and vmap, where no value is known yet, that
matrix's dA is nan. Training stops at a gradient that is not finite, before the weights move.

Of V and -V the layers give the vector whose largest entry is positive, so that every precision gives the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped, wide
from jaxbp.errors import InputError
from jaxbp.layers.second_order import UNEQUAL
from jaxbp.ops.matrices import mm, mt, tm, transposed
from jaxbp.ops.spectral_functions import (
    Choice,
    eigh,
    over,
    spectral_backward,
    spectral_forward,
    spectral_function,
    symmetric,
)

NO_GRADIENT = (
    ("finite", "at equal eigenvalues the vectors' gradient does not exist, and nan says so"),
    ("hard points", "at equal eigenvalues the vectors' gradient does not exist"),
)


def covariances(key: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Positive definite matrices, for functions that need them."""
    x = jax.random.normal(key, spec.shape, spec.dtype)
    return mt(x, x) / x.shape[-1] + diagonal(jnp.full(x.shape[:-1], 0.25, x.dtype))


@dataclass(frozen=True)
class Spectral(Layer):
    """Y = V g(w) V^T of the symmetric part V diag(w) V^T of x: [N, ..., D, D] -> the same shape.

    function: "sqrt", "inverse_sqrt", "log", "exp", a number for that power, or a pair (g, g') of functions of an array.
    floor: smaller eigenvalues count as this one, a finite number; None for a function of all numbers, such as a whole
    power (another power is nan at negative eigenvalues). Raises InputError for another name, and in use for matrices
    that are not square.
    """

    function: Choice = "sqrt"
    floor: float | None = 1e-6

    def __post_init__(self) -> None:
        spectral_function(self.function)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        return spectral_forward(spectral_function(self.function), self.floor, x)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return spectral_backward(spectral_function(self.function), self.floor, cache, dy)[0], {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(Spectral("log"), shaped(5, 3, 3), sample=covariances, excused=UNEQUAL),
            Case(Spectral(-0.3, floor=0.5), shaped(5, 4, 4), sample=covariances, name="power", excused=UNEQUAL),
        ]


@dataclass(frozen=True)
class Eigh(Layer):
    """(w [N, ..., D] rising, V [N, ..., D, D]) of the symmetric part of x [N, ..., D, D]; vectors are columns.

    tolerance: eigenvalues nearer than this times the largest |w| count as equal; positive. Backward raises InputError
    where the gradient depends on the choice of vectors; under jit it gives nan there. For functions of the matrix take
    Spectral.
    """

    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        require(self, "tolerance", self.tolerance > 0, "positive")

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        w, v = eigh(x)
        v = v * signs(v)
        return (w.astype(x.dtype), v.astype(x.dtype)), (w, v)

    def backward(self, params: PyTree, cache: PyTree, deltas: PyTree) -> tuple[jax.Array, PyTree]:
        w, v = cache
        dw, dv = (d.astype(v.dtype) for d in deltas)
        m = tm(v, dv)
        skew = (m - transposed(m)) / 2
        gap = w[..., None, :] - w[..., :, None]
        inner, free = self.gauge(gap, scale_of(w), (skew, differences(dw)), (dw, dv))
        inner = inner + diagonal(dw)
        dx = mm(v, mt(inner, v))
        return refused(self, free, symmetric(dx)).astype(deltas[0].dtype), {}

    def gauge(
        self, gap: jax.Array, scale: jax.Array, tested: tuple[jax.Array, ...], deltas: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """-> (tested[0] / gap, 0 where the gap counts as 0; how far the tested arrays are from 0 there, [...])."""
        equal = jnp.abs(gap) <= self.tolerance * scale[..., None, None]
        largest = jnp.maximum(*(jnp.max(jnp.abs(d.reshape(*scale.shape, -1)), -1) for d in deltas))
        off = jnp.max(jnp.stack([jnp.max(jnp.where(equal, jnp.abs(t), 0), (-1, -2)) for t in tested]), 0)
        return over(tested[0], jnp.where(equal, 0, gap), 0), jnp.where(off > self.tolerance * largest, off, 0)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Eigh(), shaped(5, 3, 3), excused=NO_GRADIENT)]


@dataclass(frozen=True)
class Svd(Eigh):
    """(U [N, ..., M, R], s [N, ..., R] falling, V [N, ..., K, R]) of x [N, ..., M, K], with R the smaller of M and K.

    x = U diag(s) V^T; vectors are columns. tolerance: as of Eigh, for singular values that are equal or zero.
    """

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        u, s, vt = jnp.linalg.svd(wide(x), full_matrices=False)
        v = transposed(vt)
        u, v = u * signs(v), v * signs(v)
        return (u.astype(x.dtype), s.astype(x.dtype), v.astype(x.dtype)), (u, s, v)

    def backward(self, params: PyTree, cache: PyTree, deltas: PyTree) -> tuple[jax.Array, PyTree]:
        u, s, v = cache
        du, ds, dv = (d.astype(u.dtype) for d in deltas)
        left, right = tm(u, du), tm(v, dv)
        ju, jv = left - transposed(left), right - transposed(right)
        scale = scale_of(s)
        rows, columns = s[..., :, None], s[..., None, :]
        vectors = jnp.concatenate([du, dv], -2)
        apart, free = self.gauge(columns - rows, scale, ((ju + jv) / 2, differences(ds)), (ds, vectors))
        added, free_at_zero = self.gauge(columns + rows, scale, ((ju - jv) / 2,), (ds, vectors))
        middle = apart + added + diagonal(ds)
        outside_u, outside_v = du - mm(u, left), dv - mm(v, right)
        across = lambda outside: jnp.broadcast_to(rows, transposed(outside).shape)
        rest_u, off_u = self.gauge(across(outside_u), scale, (transposed(outside_u),), (ds, vectors))
        rest_v, off_v = self.gauge(across(outside_v), scale, (transposed(outside_v),), (ds, vectors))
        dx = mm(u, mt(middle, v)) + tm(rest_u, transposed(v)) + mm(u, rest_v)
        return refused(self, free + free_at_zero + off_u + off_v, dx).astype(deltas[1].dtype), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(Svd(), shaped(5, 4, 3), excused=NO_GRADIENT),
            Case(Svd(), shaped(5, 2, 3), excused=NO_GRADIENT, name="wide"),
        ]


def diagonal(d: jax.Array) -> jax.Array:
    """[..., D, D] with d [..., D] on the diagonal."""
    return jnp.einsum("...i,ij->...ij", d, jnp.eye(d.shape[-1], dtype=d.dtype))


def signs(v: jax.Array) -> jax.Array:
    """[..., 1, D]: of each column's largest entry."""
    largest = jnp.argmax(jnp.abs(v), -2, keepdims=True)
    return jnp.sign(jnp.take_along_axis(v, largest, -2))


def scale_of(w: jax.Array) -> jax.Array:
    """[...]: the largest |w|."""
    return jnp.max(jnp.abs(w), -1)


def differences(d: jax.Array) -> jax.Array:
    """[..., D, D]: d_i - d_j."""
    return d[..., :, None] - d[..., None, :]


def refused(layer: Eigh, free: jax.Array, dx: jax.Array) -> jax.Array:
    """dx, with nan for each matrix whose `free` is not 0. Raises InputError instead where the values are known."""
    if not isinstance(free, jax.core.Tracer) and bool(jnp.any(free > 0)):
        raise InputError(
            f"{type(layer).__name__}: the gradient depends on the choice of vectors: {int(jnp.sum(free > 0))} matrices "
            f"have values that are equal up to {layer.tolerance:g} and that the loss tells apart, by up to "
            f"{float(jnp.max(free)):.2g}; Spectral has an exact gradient for functions of the matrix"
        )
    return jnp.where(free[..., None, None] > 0, jnp.nan, dx)
