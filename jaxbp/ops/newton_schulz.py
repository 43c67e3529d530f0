"""The square root of positive definite matrices and its gradient, in products of matrices alone.

Forward, with B = A / c for c = |A| (Frobenius), the coupled Newton-Schulz iteration, scaled by r:

    Y = B,  Z = I       T = r (3 I - r^2 Z Y) / 2,  Y <- Y T,  Z <- T Z          Y -> B^(1/2),  Z -> B^(-1/2)

(Higham 2008, Functions of Matrices, eq. 6.35.) A step takes an eigenvalue x^2 of Z Y to that of r x (3 - r^2 x^2) / 2.
With all x in [l, 1] the scale r^2 = 3 / (1 + l + l^2) gives both ends one value, the next l, and 1 stays the largest.
It is kept below 1.5, for rounding grows where 1 goes to nearly 0 (Chen & Chow 2014, A stable scaling of Newton-Schulz
for improving the sign function computation). r falls to 1.

Backward, X = dA solves the Lyapunov equation Y X + X Y = dY (Lin & Maji 2017, arXiv 1707.06772). It is half of the
upper right block of the sign of [[Y, dY], [0, -Y]], and the same iteration gives that sign (Song et al. 2022, arXiv
2201.08663):

    Y <- r Y (3 I - r^2 Y^2) / 2        X <- r (3 X - r^2 (Y^2 X - Y X Y + X Y^2)) / 2        from B^(1/2) and dY

Keeps Y. Costs three products a step forward and five backward; X Y^2 is the transpose of Y^2 X. The steps are as many
as the smallest eigenvalue asks for: 13 in float32 for eigenvalues from 1e-6 c on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxbp.core import wide
from jaxbp.ops.spectral_functions import product, symmetric

LOWEST = 1e-3  # of B^(1/2): the eigenvalues of A are at least its square times c
Kept = tuple[jax.Array, jax.Array]


def scales(dtype: jnp.dtype) -> jax.Array:
    """The scale r of each step, until all x of [LOWEST, 1] are within the rounding of 1."""
    low, chosen = LOWEST, []
    while low < 1 - float(jnp.finfo(dtype).eps):
        r = min(1.5, (3 / (1 + low + low * low)) ** 0.5)
        chosen.append(r)
        low = min(r * x * (3 - r * r * x * x) / 2 for x in (low, 1))
    return jnp.asarray(chosen, dtype)


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two matrices."""
    return product("...ij,...jk->...ik", a, b)


def sqrtm_forward(a: jax.Array) -> tuple[jax.Array, Kept]:
    """-> (Y, (B^(1/2), sqrt c))."""
    s = symmetric(wide(a))
    identity = jnp.broadcast_to(jnp.eye(s.shape[-1], dtype=s.dtype), s.shape)
    c = jnp.sqrt(product("...ij,...ij->...", s, s))[..., None, None]

    def step(pair: Kept, r: jax.Array) -> tuple[Kept, None]:
        y, z = pair
        t = 1.5 * r * identity - 0.5 * r**3 * times(z, y)
        return (times(y, t), times(t, z)), None

    y, _ = jax.lax.scan(step, (s / c, identity), scales(s.dtype))[0]
    root = jnp.sqrt(c)
    return (root * y).astype(a.dtype), (y, root)


def sqrtm_backward(kept: Kept, dy: jax.Array) -> tuple[jax.Array]:
    """-> (dA,)."""
    y, root = kept

    def step(pair: Kept, r: jax.Array) -> tuple[Kept, None]:
        y, x = pair
        y2 = times(y, y)
        y2x = times(y2, x)
        bracket = y2x + jnp.swapaxes(y2x, -1, -2) - times(y, times(x, y))
        return (1.5 * r * y - 0.5 * r**3 * times(y2, y), 1.5 * r * x - 0.5 * r**3 * bracket), None

    _, x = jax.lax.scan(step, (y, symmetric(dy.astype(y.dtype))), scales(y.dtype))[0]
    return ((x / (2 * root)).astype(dy.dtype),)


@jax.custom_vjp
def sqrtm_by_products(a: jax.Array) -> jax.Array:
    """The square root of the symmetric part of a [..., D, D], whose eigenvalues are positive, at least 1e-6 |A|."""
    return sqrtm_forward(a)[0]


sqrtm_by_products.defvjp(sqrtm_forward, sqrtm_backward)
