"""A symmetric matrix known only by products with it: its entries, trace, diagonal and extreme eigenvalues.

`product` is v -> A v on trees like params, such as partial(products.hessian(gradient), params, batch).

    trace      E[z^T A z]            z of independent signs (Hutchinson 1990, Communications in Statistics 19(2))
    diagonal   E[z * A z]            (Bekas, Kokiopoulou & Saad 2007, Applied Numerical Mathematics 57)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxbp.core import PyTree, dot
from jaxbp.errors import InputError, unknown
from jaxbp.factors import total

MAX_DENSE_ROWS = 20_000  # of a dense matrix: 1.6 GB in float32
ENDS = {"largest": "LA", "smallest": "SA"}  # of the spectrum, in SciPy's words


def dense(product: Callable[[PyTree], PyTree], params: PyTree) -> jax.Array:
    """A [P, P] for P parameters, in the order of ravel_pytree, a column at a time.

    Raises InputError for more than 20,000 parameters.
    """
    flat, unravel = ravel_pytree(params)
    if flat.size > MAX_DENSE_ROWS:
        raise InputError(
            f"dense: a matrix of {flat.size:,} rows is too large, at most {MAX_DENSE_ROWS:,}; use its products"
        )
    column = lambda i: ravel_pytree(product(unravel(jnp.zeros_like(flat).at[i].set(1))))[0]
    return jax.lax.map(column, jnp.arange(flat.size)).T


def trace(product: Callable[[PyTree], PyTree], params: PyTree, key: jax.Array, samples: int) -> jax.Array:
    """An unbiased estimate; its variance is 2 / samples of the sum of squares off the diagonal."""
    return _mean(product, params, key, samples, dot)


def diagonal(product: Callable[[PyTree], PyTree], params: PyTree, key: jax.Array, samples: int) -> PyTree:
    """An unbiased estimate like params; exact after one sample where A is diagonal."""
    return _mean(product, params, key, samples, lambda z, a: jax.tree.map(jnp.multiply, z, a))


def _mean(product: Callable, params: PyTree, key: jax.Array, samples: int, statistic: Callable) -> PyTree:
    """The mean of statistic(z, A z) over `samples` vectors z of independent signs, one z at a time."""
    leaves, tree = jax.tree.flatten(params)

    def sample(key: jax.Array) -> PyTree:
        keys = jax.random.split(key, len(leaves))
        signs = [jax.random.rademacher(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
        z = jax.tree.unflatten(tree, signs)
        return statistic(z, product(z))

    return jax.tree.map(lambda s: s / samples, total(sample, jax.random.split(key, samples)))


def extreme_eigenvalues(
    product: Callable[[PyTree], PyTree],
    params: PyTree,
    count: int = 1,
    which: Literal["largest", "smallest"] = "largest",
    accuracy: float = 1e-6,
) -> tuple[np.ndarray, list[PyTree]]:
    """The `count` algebraically largest or smallest eigenvalues, outermost first, and their vectors of norm 1.

    By SciPy's Lanczos iteration. accuracy: of the eigenvalues, relative. Raises InputError for another `which`, and for
    a `count` that is not from 1 to the number of parameters - 1.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    flat, unravel = ravel_pytree(params)
    if which not in ENDS:
        raise unknown("extreme_eigenvalues which", which, ENDS)
    if not 1 <= count < flat.size:
        raise InputError(f"extreme_eigenvalues: count must be from 1 to {flat.size - 1}, got {count}")
    run = jax.jit(lambda v: ravel_pytree(product(unravel(v)))[0])
    matvec = lambda v: np.asarray(run(jnp.asarray(v.ravel(), flat.dtype)))
    start = np.random.default_rng(0).normal(size=flat.size).astype(flat.dtype)
    operator = LinearOperator((flat.size,) * 2, matvec, dtype=flat.dtype)
    values, vectors = eigsh(operator, count, which=ENDS[which], v0=start, tol=accuracy)
    order = np.argsort(values)[:: -1 if which == "largest" else 1]
    return values[order], [unravel(jnp.asarray(vectors[:, i], flat.dtype)) for i in order]
