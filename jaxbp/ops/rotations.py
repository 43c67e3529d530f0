"""Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of entries turn by an angle that grows with the position.

    forward   y = R_t x,    R_t turns (x_i, x_i+D/2) by t base^(-2 i / D)
    backward  dx = R_t^T dy = R_-t dy

Keeps nothing. The scalar product of two turned vectors depends on the difference of their positions alone.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import wide
from jaxbp.ops.weighting import positions as places


def turned(x: jax.Array, positions: jax.Array, base: float) -> jax.Array:
    """x [N, T, H, D], D even, at `positions` [T]; the transpose is the same with -positions."""
    half = x.shape[-1] // 2
    first, second = jnp.split(wide(x), 2, -1)
    rate = base ** (-jnp.arange(half, dtype=first.dtype) / half)
    angle = positions.astype(first.dtype)[:, None] * rate[None]
    cos, sin = (f(angle)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rotary(x: jax.Array, positions: jax.Array | None = None, base: float = 10_000.0) -> jax.Array:
    """R_t x for x [N, T, H, D], D even, at integer positions [T]; None: 0, 1, ..., T - 1.

    For queries and keys alike, before their scores. base: positive; the slowest pair turns by about 1 / base a step.
    """
    return turned(x, places(x.shape[1]) if positions is None else positions, base)


def rotary_forward(x: jax.Array, positions: jax.Array | None, base: float) -> tuple[jax.Array, jax.Array]:
    """-> (y, the positions)."""
    positions = places(x.shape[1]) if positions is None else positions
    return turned(x, positions, base), positions


rotary.defvjp(rotary_forward, lambda base, positions, dy: (turned(dy, -positions, base), None))
