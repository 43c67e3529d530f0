"""A bias b [O] along the last axis.

forward   y[s, o] = z[s, o] + b[o]
backward  dz = dy,  db[o] = sum_s dy[s, o]
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def add_bias(z: jax.Array, b: jax.Array) -> jax.Array:
    """z [..., O] + b [O], in the dtype of z."""
    return z + jnp.broadcast_to(b.astype(z.dtype), z.shape)


def bias_gradient(dy: jax.Array, dtype: Any) -> jax.Array:
    """dy [..., O] -> db [O], summed in `dtype`."""
    return jnp.sum(dy, tuple(range(dy.ndim - 1)), dtype)
