"""Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of entries turn by an angle that grows with the position.

    forward   y = R_t x,    R_t turns (x_i, x_i+D/2) by t base^(-2 i / D)
    backward  dx = R_t^T dy = R_-t dy

Keeps nothing. The scalar product of two turned vectors depends on the difference of their positions alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxbp.core import wide


def turned(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
    """x [N, T, H, D], D even, at `positions` [T]; the transpose is the same with -positions."""
    half = x.shape[-1] // 2
    first, second = jnp.split(wide(x), 2, -1)
    rate = base ** (-jnp.arange(half, dtype=first.dtype) / half)
    angle = positions.astype(first.dtype)[:, None] * rate[None]
    cos, sin = (f(angle)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
