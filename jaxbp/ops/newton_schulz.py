"""The square root of positive definite matrices and its gradient, in products of matrices alone.

Forward, with B = A / c for c = |A| (Frobenius), the coupled Newton-Schulz iteration (Higham 2008, Functions of
Matrices, eq. 6.35):

    Y = B,  Z = I       T = r (3 I - r^2 Z Y) / 2,  Y <- Y T,  Z <- T Z        Y -> B^(1/2),  Z -> B^(-1/2)

Backward, X = dA solves the Lyapunov equation Y X + X Y = dY (Lin & Maji 2017, arXiv 1707.06772). It is half of the
upper right block of the sign of [[Y, dY], [0, -Y]], and the same iteration gives that sign (Song et al. 2022, arXiv
2201.08663):

    Y <- r Y (3 I - r^2 Y^2) / 2,    X <- r (3 X - r^2 (Y^2 X - Y X Y + X Y^2)) / 2      from B^(1/2) and dY

The first steps have r = 1.5, all others r = 1: they multiply small eigenvalues of Y by 2.25 instead of 1.5, and keep
the largest below 1 (Chen & Chow 2014, A stable scaling of Newton-Schulz for improving the sign function computation).
Keeps B^(1/2). Costs three products a step forward and five backward. Y^2 X + X Y^2 is twice the symmetric part of
Y^2 X. X is made symmetric at every step: a skew part, which rounding leaves, would double at each. Near the end a step
squares the error, and the loop stops by itself. No library of linear algebra is needed, so batches of small matrices
run at the speed of products.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxbp.core import wide
from jaxbp.ops.spectral_functions import product, symmetric

MOST_STEPS = 50  # an eigenvalue of zero never gets to one
Kept = tuple[jax.Array, jax.Array]


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two matrices."""
    return product("...ij,...jk->...ik", a, b)


def converged(step: Callable[[Kept, float], tuple[Kept, jax.Array]], pair: Kept) -> Kept:
    """The pair after steps, until the square that goes to I was so near to it that the last step left rounding alone.

    step(pair, r) -> (the next pair, the square before).
    """
    enough = 1.5 * float(jnp.finfo(pair[0].dtype).eps) ** 0.5  # a step leaves 3/8 of its square
    identity = jnp.eye(pair[0].shape[-1], dtype=pair[0].dtype)

    def body(carry: tuple[Kept, jax.Array, int]) -> tuple[Kept, jax.Array, int]:
        pair, square = step(carry[0], 1.0)
        return pair, jnp.max(jnp.abs(square - identity)), carry[2] + 1

    for _ in range(2):
        pair, _ = step(pair, 1.5)
    far = jnp.asarray(jnp.inf, pair[0].dtype)
    return jax.lax.while_loop(lambda carry: (carry[1] > enough) & (carry[2] < MOST_STEPS), body, (pair, far, 0))[0]


def sqrtm_forward(a: jax.Array) -> tuple[jax.Array, Kept]:
    """-> (Y, (B^(1/2), sqrt c))."""
    s = symmetric(wide(a))
    c = jnp.sqrt(product("...ij,...ij->...", s, s))[..., None, None]

    def step(pair: Kept, r: float) -> tuple[Kept, jax.Array]:
        y, z = pair
        square = times(z, y)
        t = 1.5 * r * identity - 0.5 * r**3 * square
        return (times(y, t), times(t, z)), square

    identity = jnp.broadcast_to(jnp.eye(s.shape[-1], dtype=s.dtype), s.shape)
    y, _ = converged(step, (s / c, identity))
    return (jnp.sqrt(c) * y).astype(a.dtype), (y, jnp.sqrt(c))


def sqrtm_backward(kept: Kept, dy: jax.Array) -> tuple[jax.Array]:
    """-> (dA,)."""
    y, root = kept

    def step(pair: Kept, r: float) -> tuple[Kept, jax.Array]:
        y, x = pair
        square = times(y, y)
        yx = times(y, x)
        bracket = symmetric(2 * times(y, yx) - times(yx, y))
        return (1.5 * r * y - 0.5 * r**3 * times(y, square), 1.5 * r * x - 0.5 * r**3 * bracket), square

    _, x = converged(step, (y, symmetric(dy.astype(y.dtype))))
    return ((x / (2 * root)).astype(dy.dtype),)


@jax.custom_vjp
def sqrtm_by_products(a: jax.Array) -> jax.Array:
    """The square root of the symmetric part of a [..., D, D], whose eigenvalues are positive."""
    return sqrtm_forward(a)[0]


sqrtm_by_products.defvjp(sqrtm_forward, sqrtm_backward)
