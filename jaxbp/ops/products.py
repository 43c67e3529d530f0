"""Products summed in at least float32; those over the last axis of sequences, and the weight gradient they give."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def wide_dtype(a: jax.Array) -> np.dtype:
    """The dtype that products of entries of a are summed in: at least float32."""
    return np.promote_types(a.dtype, np.float32)


def rounded(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum summed in at least float32, then rounded to the dtype of a."""
    return jnp.einsum(letters, a, b, preferred_element_type=wide_dtype(a)).astype(a.dtype)


def across(a: jax.Array, w: jax.Array) -> jax.Array:
    """a [..., h] times w [h, g]."""
    return rounded("...h,hg->...g", a, w)


def along(a: jax.Array, w: jax.Array) -> jax.Array:
    """a [..., h] times a vector w [h], entry by entry."""
    return jnp.einsum("...h,h->...h", a, w)


def contraction(g: jax.Array, a: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """sum_s g[s, o] a[s, i] -> [o, i], s over all leading axes.

    The CPU's kernel takes up to twice as long with the wider array on the left; the barrier keeps it on the right.
    """
    g = g.reshape(-1, g.shape[-1])
    a = a.reshape(-1, a.shape[-1])
    straight = lambda g, a: jnp.einsum("so,si->oi", g, a, preferred_element_type=dtype)
    turned = lambda g, a: lax.optimization_barrier(jnp.einsum("si,so->io", a, g, preferred_element_type=dtype)).T
    if g.shape[-1] <= a.shape[-1]:
        return straight(g, a)
    return lax.platform_dependent(g, a, cpu=turned, default=straight)


def column_sums(a: jax.Array) -> jax.Array:
    """sum_s a[s, c] -> [c]. On CPU a product with ones is up to a third faster than a reduction of the same size."""
    product = lambda a: jnp.einsum("s,sc->c", jnp.ones(len(a), a.dtype), a, precision="highest")
    return lax.platform_dependent(a, cpu=product, default=lambda a: jnp.sum(a, 0))


def times_vector(a: jax.Array, w: jax.Array) -> jax.Array:
    """sum_d a[..., d] w[d] -> [...]. On CPU a product forms no array a w; elsewhere the sum is fused with it."""
    product = lambda a, w: jnp.einsum("...d,d->...", a, w, precision="highest")
    fused = lambda a, w: jnp.sum(a * w.reshape((1,) * (a.ndim - 1) + (-1,)), -1)
    return lax.platform_dependent(a, w, cpu=product, default=fused)
