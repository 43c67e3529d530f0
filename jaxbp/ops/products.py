"""Products over the last axis of sequences, and the weight gradient that they give: one sum over all other axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def across(a: jax.Array, w: jax.Array) -> jax.Array:
    """a [..., h] times w [h, g]."""
    return jnp.einsum("...h,hg->...g", a, w)


def along(a: jax.Array, w: jax.Array) -> jax.Array:
    """a [..., h] times a vector w [h], entry by entry."""
    return jnp.einsum("...h,h->...h", a, w)


def contraction(g: jax.Array, a: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """sum_s g[s, o] a[s, i] -> [o, i], s over all leading axes.

    The CPU's kernel takes up to twice as long with the wider array on the left; the barrier keeps it on the right.
    """
    g = g.reshape(-1, g.shape[-1])
    a = a.reshape(-1, a.shape[-1])
    if g.shape[-1] <= a.shape[-1]:
        return jnp.einsum("so,si->oi", g, a, preferred_element_type=dtype)
    return jax.lax.optimization_barrier(jnp.einsum("si,so->io", a, g, preferred_element_type=dtype)).T
