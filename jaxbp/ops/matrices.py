"""Operations of linear algebra on [..., D, D] and [..., M, K], each with its backward pass in products and solves.

    logdet      y = log |det A|              dA = dy A^-T
    solve       A x = b                      db = A^-T dx,   dA = -db x^T
    sylvester   A X + X B = C                dC solves A^T dC + dC B^T = dX,   dA = -dC X^T,   dB = -X^T dC
    cholesky    S = L L^T                    dA = L^-T P(L^T dL) L^-1, symmetric part; P: lower half, half the diagonal
    qr          A = Q R                      dA = (dQ + Q C(R dR^T - dQ^T Q)) R^-T;  C copies the lower half up
    pinv        P = A^+                      dA = -P^T dP P^T + (I - A P) dP^T P P^T + P^T P dP^T (I - P A)
    polar       A = U P                      dA = 2 U T + U Q + (I - U U^T) dU P^-1
                    Q = symmetric part of dP,   P T + T P = skew part of (U^T dU - Q P)
    expm        Y = e^A                      dA = upper right block of exp [[A^T, dY], [0, A^T]]

Sources: Giles 2008, Collected matrix derivative results (logdet, solve); Murray 2016, arXiv 1602.07527 (cholesky);
Walter & Lehmann 2010 (qr); Golub & Pereyra 1973 (pinv, for a rank that does not change); Al-Mohy & Higham 2009 (expm);
for polar, dA follows from d(U P) with U^T dU skew and dP symmetric. dL and dR count in the triangle that L and R have.
polar divides by sums of singular values, never by differences: it is exact where some are equal.

What a factorization costs forward is not paid again: logdet and solve keep the LU factors, the others their results.
Linear algebra is done in at least float32.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import expm as exponential
from jax.scipy.linalg import lu_factor, lu_solve, solve_sylvester, solve_triangular

from jaxbp.core import wide
from jaxbp.errors import InputError
from jaxbp.ops.spectral_functions import over, product, square, symmetric

LU = tuple[jax.Array, jax.Array]
Pair = tuple[jax.Array, jax.Array]
mm = partial(product, "...ij,...jk->...ik")  # A B
mt = partial(product, "...ij,...kj->...ik")  # A B^T
tm = partial(product, "...ji,...jk->...ik")  # A^T B


def transposed(a: jax.Array) -> jax.Array:
    """A^T."""
    return jnp.swapaxes(a, -1, -2)


# --- log |det A| -----------------------------------------------------------------------------------------------------


def logdet_forward(a: jax.Array) -> tuple[jax.Array, LU]:
    """-> (y, the LU factors)."""
    lu, pivots = lu_factor(square(wide(a)))
    diagonal = jnp.diagonal(lu, axis1=-2, axis2=-1)
    return jnp.sum(jnp.log(jnp.abs(diagonal)), -1).astype(a.dtype), (lu, pivots)


def logdet_backward(kept: LU, dy: jax.Array) -> tuple[jax.Array]:
    """-> (dA,)."""
    inverse = lu_solve(kept, identity_like(kept[0]), trans=1)
    return ((dy.astype(inverse.dtype)[..., None, None] * inverse).astype(dy.dtype),)


def identity_like(a: jax.Array) -> jax.Array:
    """The identity, as many of them as a [..., D, D] has matrices."""
    return jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)


@jax.custom_vjp
def logdet(a: jax.Array) -> jax.Array:
    """log |det A| of a [..., D, D] -> [...]; dA = dy A^-T. Raises InputError for matrices that are not square."""
    return logdet_forward(a)[0]


logdet.defvjp(logdet_forward, logdet_backward)

# --- A x = b ---------------------------------------------------------------------------------------------------------


def solve_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple]:
    """-> (x, (the LU factors, x, an array of b's dtype))."""
    if a.ndim != b.ndim or square(a).shape[:-1] != b.shape[:-1]:
        raise InputError(f"solve takes a [..., D, D] and b [..., D, K], got {list(a.shape)} and {list(b.shape)}")
    factors = lu_factor(wide(a))
    x = lu_solve(factors, b.astype(factors[0].dtype))
    return x.astype(b.dtype), (factors, x, a[..., :0])


def solve_backward(kept: tuple, dx: jax.Array) -> Pair:
    """-> (dA, db)."""
    factors, x, like_a = kept
    db = lu_solve(factors, dx.astype(x.dtype), trans=1)
    return -mt(db, x).astype(like_a.dtype), db.astype(dx.dtype)


@jax.custom_vjp
def solve(a: jax.Array, b: jax.Array) -> jax.Array:
    """x = A^-1 b for a [..., D, D] and b [..., D, K]; db = A^-T dx and dA = -db x^T. Both passes use one LU.

    Raises InputError for shapes that do not fit.
    """
    return solve_forward(a, b)[0]


solve.defvjp(solve_forward, solve_backward)

# --- A X + X B = C ---------------------------------------------------------------------------------------------------


def sylvester_forward(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, tuple]:
    """-> (X, (A, B, X))."""
    rows, columns = square(a).shape, square(b).shape
    if rows[:-1] != c.shape[:-1] or columns[:-2] != rows[:-2] or columns[-1] != c.shape[-1]:
        shapes = ", ".join(str(list(m.shape)) for m in (a, b, c))
        raise InputError(f"sylvester takes a [..., M, M], b [..., K, K] and c [..., M, K], got {shapes}")
    x = solve_sylvester(wide(a), wide(b), wide(c))
    return x.astype(c.dtype), (a, b, x)


def sylvester_backward(kept: tuple, dx: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> (dA, dB, dC)."""
    a, b, x = kept
    dc = solve_sylvester(transposed(wide(a)), transposed(wide(b)), dx.astype(x.dtype))
    return -mt(dc, x).astype(a.dtype), -tm(x, dc).astype(b.dtype), dc.astype(dx.dtype)


@jax.custom_vjp
def sylvester(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """X with A X + X B = C, for a [..., M, M], b [..., K, K] and c [..., M, K]. On CPU: JAX's Schur form is there.

    A and -B share no eigenvalue. dC solves A^T dC + dC B^T = dX; dA = -dC X^T and dB = -X^T dC. Raises InputError for
    shapes that do not fit.
    """
    return sylvester_forward(a, b, c)[0]


sylvester.defvjp(sylvester_forward, sylvester_backward)

# --- S = L L^T -------------------------------------------------------------------------------------------------------


def cholesky_forward(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-> (L, L)."""
    factor = jnp.linalg.cholesky(symmetric(wide(a)), symmetrize_input=False)
    return factor.astype(a.dtype), factor


def cholesky_backward(factor: jax.Array, dl: jax.Array) -> tuple[jax.Array]:
    """-> (dA,)."""
    half = jnp.tril(tm(factor, jnp.tril(dl.astype(factor.dtype))))
    half = half - 0.5 * jnp.eye(half.shape[-1], dtype=half.dtype) * half
    left = solve_triangular(factor, half, trans=1, lower=True)
    both = transposed(solve_triangular(factor, transposed(left), trans=1, lower=True))
    return (symmetric(both).astype(dl.dtype),)


@jax.custom_vjp
def cholesky(a: jax.Array) -> jax.Array:
    """The lower triangular L with L L^T the symmetric part of a [..., D, D], which is positive definite.

    dA is the symmetric part of L^-T P(L^T dL) L^-1, where P keeps the lower half and half of the diagonal. Raises
    InputError for matrices that are not square; L is nan where there is none.
    """
    return cholesky_forward(a)[0]


cholesky.defvjp(cholesky_forward, cholesky_backward)

# --- A = Q R ---------------------------------------------------------------------------------------------------------


def qr_forward(a: jax.Array) -> tuple[Pair, Pair]:
    """-> ((Q, R), the same in at least float32)."""
    q, r = jnp.linalg.qr(tall(wide(a)))
    return (q.astype(a.dtype), r.astype(a.dtype)), (q, r)


def qr_backward(kept: Pair, deltas: Pair) -> tuple[jax.Array]:
    """-> (dA,)."""
    q, r = kept
    dq, dr = (d.astype(q.dtype) for d in deltas)
    m = mt(r, jnp.triu(dr)) - tm(dq, q)
    copied = jnp.tril(m) + transposed(jnp.tril(m, -1))
    da = transposed(solve_triangular(r, transposed(dq + mm(q, copied))))
    return (da.astype(deltas[0].dtype),)


def tall(a: jax.Array) -> jax.Array:
    """a itself. Raises InputError unless it is [..., M, K] with M >= K."""
    if a.ndim < 2 or a.shape[-2] < a.shape[-1]:
        raise InputError(f"the matrices must be [..., M, K] with M >= K, got {list(a.shape)}")
    return a


@jax.custom_vjp
def qr(a: jax.Array) -> Pair:
    """(Q [..., M, K], R [..., K, K]) with A = Q R, Q^T Q = I and R upper triangular, for a [..., M, K] of rank K.

    dA = (dQ + Q C(R dR^T - dQ^T Q)) R^-T, where C copies the lower half up. Raises InputError for M < K.
    """
    return qr_forward(a)[0]


qr.defvjp(qr_forward, qr_backward)

# --- A^+ -------------------------------------------------------------------------------------------------------------


def pinv_forward(a: jax.Array) -> tuple[jax.Array, Pair]:
    """-> (P, (A, P))."""
    if a.ndim < 2:
        raise InputError(f"pinv takes matrices [..., M, K], got {list(a.shape)}")
    inverse = jnp.linalg.pinv(wide(a))
    return inverse.astype(a.dtype), (wide(a), inverse)


def pinv_backward(kept: Pair, dp: jax.Array) -> tuple[jax.Array]:
    """-> (dA,)."""
    a, p = kept
    delta = dp.astype(p.dtype)
    left = tm(delta, mt(p, p))  # dP^T P P^T
    right = mt(tm(p, p), delta)  # P^T P dP^T
    da = left - mm(a, mm(p, left)) + right - mm(mm(right, p), a) - tm(p, mt(delta, p))
    return (da.astype(dp.dtype),)


@jax.custom_vjp
def pinv(a: jax.Array) -> jax.Array:
    """The pseudo-inverse [..., K, M] of a [..., M, K], of any rank; the gradient is that along matrices of this rank.

    dA = -P^T dP P^T + (I - A P) dP^T P P^T + P^T P dP^T (I - P A). Raises InputError for an array of fewer dimensions.
    """
    return pinv_forward(a)[0]


pinv.defvjp(pinv_forward, pinv_backward)

# --- A = U P ---------------------------------------------------------------------------------------------------------


def polar_forward(a: jax.Array) -> tuple[Pair, tuple]:
    """-> ((U, P), (U, the singular values s, their right vectors V))."""
    x, s, vt = jnp.linalg.svd(tall(wide(a)), full_matrices=False)
    u = mm(x, vt)
    p = product("...ki,...k,...kj->...ij", vt, s, vt)
    return (u.astype(a.dtype), p.astype(a.dtype)), (u, s, transposed(vt))


def polar_backward(kept: tuple, deltas: Pair) -> tuple[jax.Array]:
    """-> (dA,)."""
    u, s, v = kept
    du, dp = (d.astype(u.dtype) for d in deltas)
    q = symmetric(dp)
    w = mm(tm(v, tm(u, du)), v) - tm(v, mm(q, v)) * s[..., None, :]  # V^T (U^T dU - Q P) V
    t = over(w - transposed(w), 2 * (s[..., :, None] + s[..., None, :]), 0)
    rest = mm(du - mm(u, tm(u, du)), v) / s[..., None, :]
    da = mm(u, 2 * mm(v, mt(t, v)) + q) + mt(rest, v)
    return (da.astype(deltas[0].dtype),)


@jax.custom_vjp
def polar(a: jax.Array) -> Pair:
    """(U [..., M, K], P [..., K, K]) with A = U P, U^T U = I and P positive definite, for a [..., M, K] of rank K.

    U is the nearest matrix with orthonormal columns. dA = 2 U T + U Q + (I - U U^T) dU P^-1 with Q the symmetric part
    of dP and P T + T P the skew part of U^T dU - Q P. Raises InputError for M < K.
    """
    return polar_forward(a)[0]


polar.defvjp(polar_forward, polar_backward)

# --- e^A -------------------------------------------------------------------------------------------------------------


def expm_forward(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-> (Y, A)."""
    return exponential(square(wide(a))).astype(a.dtype), wide(a)


def expm_backward(a: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    """-> (dA,)."""
    at = transposed(a)
    size = a.shape[-1]
    top = jnp.concatenate([at, dy.astype(a.dtype)], -1)
    bottom = jnp.concatenate([jnp.zeros_like(at), at], -1)
    block = exponential(jnp.concatenate([top, bottom], -2))
    return (block[..., :size, size:].astype(dy.dtype),)


@jax.custom_vjp
def expm(a: jax.Array) -> jax.Array:
    """The exponential of a [..., D, D]. dA is the upper right block of exp [[A^T, dY], [0, A^T]].

    Raises InputError for matrices that are not square. For symmetric ones `spectral(a, "exp")` costs less.
    """
    return expm_forward(a)[0]


expm.defvjp(expm_forward, expm_backward)
