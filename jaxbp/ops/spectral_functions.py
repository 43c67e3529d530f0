"""Functions of symmetric matrices, exact at equal and nearly equal eigenvalues.

    forward    S = (A + A^T) / 2 = V diag(w) V^T       Y = V diag(g(w)) V^T
    backward   dA = V (K * (V^T dY V)) V^T             K_ij = (g(w_i) - g(w_j)) / (w_i - w_j),  K_ii = g'(w_i)

(Daleckii & Krein 1965; Higham 2008, Functions of Matrices, theorem 3.11.) dY stands for its symmetric part. The
derivative of V, which divides by w_i - w_j, is never formed: K is written so that nothing cancels. With a = w_i >= b =
w_j, d = a - b and x = d / b:

    sqrt            1 / (sqrt a + sqrt b)
    inverse sqrt   -1 / (sqrt a sqrt b (sqrt a + sqrt b))
    log             log1p(x) / x / b
    exp             e^a (1 - e^-d) / d
    power n = 2, 3  a^(n-1) + a^(n-2) b + ... + b^(n-1) for any signs, with powers of two by (a^m + b^m) K of power m;
    and all whole   for power -n that of 1 / a and 1 / b, divided by -a b
    power p         b^(p-1) ((1 + x)^p - 1) / x by expm1 and log1p; for a > 2 b nothing cancels in (a^p - b^p) / d
    a pair g, g'    the mean of g' between b and a by Gauss's rule, or (g(a) - g(b)) / d, whichever errs less

A floor f makes it g(max(w, f)), with K times the quotient of max(w, f) (Huang & Van Gool 2017, arXiv 1608.04233, use
it as a layer). Keeps V and w. Costs one eigendecomposition and five products of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import wide
from jaxbp.errors import InputError, unknown

Entrywise = Callable[[jax.Array], jax.Array]
Decomposition = tuple[jax.Array, jax.Array]  # eigenvalues w [..., D] and eigenvectors V [..., D, D], one a column
product = partial(jnp.einsum, precision="highest")


@dataclass(frozen=True)
class SpectralFunction:
    """A function g of eigenvalues, entry by entry, and its divided difference."""

    def value(self, w: jax.Array) -> jax.Array:
        """g(w)."""
        raise NotImplementedError

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """(g(a) - g(b)) / (a - b) for a >= b, and g'(a) where a = b."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sqrt(SpectralFunction):
    def value(self, w: jax.Array) -> jax.Array:
        return jnp.sqrt(w)

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return 1 / (jnp.sqrt(a) + jnp.sqrt(b))


@dataclass(frozen=True)
class InverseSqrt(SpectralFunction):
    def value(self, w: jax.Array) -> jax.Array:
        return 1 / jnp.sqrt(w)

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        root_a, root_b = jnp.sqrt(a), jnp.sqrt(b)
        return -1 / (root_a * root_b * (root_a + root_b))


@dataclass(frozen=True)
class Log(SpectralFunction):
    def value(self, w: jax.Array) -> jax.Array:
        return jnp.log(w)

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        x = (a - b) / b
        return over(jnp.log1p(x), x, 1) / b


@dataclass(frozen=True)
class Exp(SpectralFunction):
    def value(self, w: jax.Array) -> jax.Array:
        return jnp.exp(w)

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.exp(a) * over(-jnp.expm1(b - a), a - b, 1)


@dataclass(frozen=True)
class Power(SpectralFunction):
    """w^exponent: of all eigenvalues for a whole exponent, of those that are not negative for another."""

    exponent: float

    def value(self, w: jax.Array) -> jax.Array:
        return w**self.exponent

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        if float(self.exponent).is_integer():
            n = int(self.exponent)
            return whole_quotient(a, b, n) if n >= 0 else -whole_quotient(1 / a, 1 / b, -n) / a / b
        far = a > 2 * b
        x = jnp.where(far, 0, a - b) / jnp.where(b > 0, b, 1)
        near = b ** (self.exponent - 1) * over(jnp.expm1(self.exponent * jnp.log1p(x)), x, self.exponent)
        apart = over(a**self.exponent - b**self.exponent, a - b, jnp.nan)  # far and equal: both are negative
        return jnp.where(far, apart, near)


def whole_quotient(a: jax.Array, b: jax.Array, n: int) -> jax.Array:
    """The sum of a^i b^(n-1-i), for n >= 0: twice as many terms by a factor a^m + b^m, or one more."""
    if n == 0:
        return jnp.zeros_like(a)
    if n % 2:
        return a * whole_quotient(a, b, n - 1) + b ** (n - 1)
    return (a ** (n // 2) + b ** (n // 2)) * whole_quotient(a, b, n // 2)


@dataclass(frozen=True)
class Pair(SpectralFunction):
    """A function g and its derivative, both of an array, entry by entry."""

    g: Entrywise
    derivative: Entrywise

    def value(self, w: jax.Array) -> jax.Array:
        return self.g(w)

    def quotient(self, a: jax.Array, b: jax.Array) -> jax.Array:
        quotient = over(self.g(a) - self.g(b), a - b, 0)
        rounding = jnp.finfo(a.dtype).eps * over(jnp.abs(self.g(a)) + jnp.abs(self.g(b)), a - b, jnp.inf)
        mean = self.mean_slope(a, b, 8)
        return jnp.where(jnp.abs(mean - self.mean_slope(a, b, 4)) <= rounding, mean, quotient)

    def mean_slope(self, a: jax.Array, b: jax.Array, nodes: int) -> jax.Array:
        """The mean of the derivative over [b, a] by Gauss's rule, which has no error for degrees below 2 nodes."""
        points, weights = np.polynomial.legendre.leggauss(nodes)
        middle, half = (a + b) / 2, (a - b) / 2
        slopes = [
            float(w) / 2 * self.derivative(middle + float(p) * half) for p, w in zip(points, weights, strict=True)
        ]
        return jnp.sum(jnp.stack(slopes), 0)


NAMED: dict[str, SpectralFunction] = {"sqrt": Sqrt(), "inverse_sqrt": InverseSqrt(), "log": Log(), "exp": Exp()}
Choice = str | float | tuple[Entrywise, Entrywise] | SpectralFunction


def spectral_function(choice: Choice) -> SpectralFunction:
    """The function of that name, the power of that exponent, or the pair (g, g'). Raises InputError for other names."""
    if isinstance(choice, SpectralFunction):
        return choice
    if isinstance(choice, tuple):
        return Pair(*choice)
    if isinstance(choice, str):
        if choice not in NAMED:
            raise unknown("function of a symmetric matrix", choice, NAMED)
        return NAMED[choice]
    return Power(float(choice))


def over(numerator: jax.Array, x: jax.Array, limit: float) -> jax.Array:
    """numerator / x, and the limit where x = 0."""
    return jnp.where(x == 0, limit, numerator / jnp.where(x == 0, 1, x))


def symmetric(a: jax.Array) -> jax.Array:
    """(A + A^T) / 2. Raises InputError unless a is [..., D, D]."""
    return (square(a) + jnp.swapaxes(a, -1, -2)) / 2


def square(a: jax.Array) -> jax.Array:
    """a itself. Raises InputError unless it is [..., D, D]."""
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise InputError(f"the matrices must be square, [..., D, D], got {list(a.shape)}")
    return a


def eigh(a: jax.Array) -> Decomposition:
    """(w, V) of the symmetric part, in at least float32, w in rising order.

    A step of Newton and Schulz brings V^T V from what LAPACK leaves, some 1e-6 in float32, to rounding.
    """
    w, v = jnp.linalg.eigh(symmetric(wide(a)), symmetrize_input=False)
    square = product("...ki,...kj->...ij", v, v)
    return w, 1.5 * v - 0.5 * product("...ik,...kj->...ij", v, square)


def spectral_forward(function: SpectralFunction, floor: float | None, a: jax.Array) -> tuple[jax.Array, Decomposition]:
    """-> (Y, (w, V))."""
    w, v = eigh(a)
    g = function.value(w if floor is None else jnp.maximum(w, floor))
    return product("...ik,...k,...jk->...ij", v, g, v).astype(a.dtype), (w, v)


def spectral_backward(
    function: SpectralFunction, floor: float | None, kept: Decomposition, dy: jax.Array
) -> tuple[jax.Array]:
    """-> (dA,)."""
    w, v = kept
    delta = product("...ki,...kl,...lj->...ij", v, symmetric(dy.astype(v.dtype)), v)
    k = quotients(function, floor, w)
    inner = jnp.where(jnp.isinf(k) & (delta == 0), 0, k * delta)  # dY does not reach what has an infinite slope
    da = product("...ik,...kl,...jl->...ij", v, inner, v)
    return (da.astype(dy.dtype),)


def quotients(function: SpectralFunction, floor: float | None, w: jax.Array) -> jax.Array:
    """K [..., D, D] of eigenvalues [..., D]."""
    a, b = jnp.maximum(w[..., :, None], w[..., None, :]), jnp.minimum(w[..., :, None], w[..., None, :])
    if floor is None:
        return function.quotient(a, b)
    crossing = over(a - floor, a - b, 0)
    slope = jnp.where(b >= floor, 1, jnp.where(a > floor, crossing, 0))  # the quotient of max(w, floor)
    return jnp.where(slope == 0, 0, slope * function.quotient(jnp.maximum(a, floor), jnp.maximum(b, floor)))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spectral(function: SpectralFunction, floor: float | None, a: jax.Array) -> jax.Array:
    return spectral_forward(function, floor, a)[0]


_spectral.defvjp(spectral_forward, spectral_backward)


def spectral(a: jax.Array, function: Choice, floor: float | None = None) -> jax.Array:
    """V diag(g(w)) V^T of the symmetric part V diag(w) V^T of a [..., D, D].

    function: "sqrt", "inverse_sqrt", "log", "exp", a number for that power, or a pair (g, g') of functions of an array.
    floor: smaller eigenvalues count as this one; without it they must lie where g is defined: a power that is not whole
    is nan at negative ones. The gradient is exact at equal eigenvalues. Raises InputError for other names, and for
    matrices that are not square.
    """
    return _spectral(spectral_function(function), floor, a)


def sqrtm_psd(a: jax.Array, form: Literal["eigh", "products"] = "eigh") -> jax.Array:
    """The square root of the symmetric part of a [..., D, D], which must have no negative eigenvalue.

    form: "eigh", or "products" of matrices alone (jaxbp.ops.newton_schulz), for GPUs and large batches. Eigenvalues
    below zero count as zero in the first form. Between eigenvalues of zero the slope is infinite: dA is finite only
    where dY, in the basis of the eigenvectors, is exactly 0 there. dA solves Y dA + dA Y = dY.
    """
    if form == "products":
        from jaxbp.ops.newton_schulz import sqrtm_by_products

        return sqrtm_by_products(a)
    if form != "eigh":
        raise unknown("form of sqrtm_psd", form, ("eigh", "products"))
    return _spectral(NAMED["sqrt"], 0.0, a)


def logm_psd(a: jax.Array, floor: float | None = None) -> jax.Array:
    """The logarithm of the symmetric part of a [..., D, D]; its eigenvalues are positive, or below a positive floor.

    dA = V (K * (V^T dY V)) V^T with K_ij = (log w_i - log w_j) / (w_i - w_j) and K_ii = 1 / w_i.
    """
    return _spectral(NAMED["log"], floor, a)
