"""Gated products: one half of the features, bent, times the other (Shazeer 2020, arXiv 2002.05202).

    swiglu   y = f(a) b,  f(a) = a s, s = sigmoid a        f' = s (1 + a (1 - s))
    geglu    y = f(a) b,  f(a) = a Phi(a)                  f' = Phi(a) + a phi(a)
             or by tanh   f(a) = a (1 + t) / 2             f' = (1 + t) / 2 + a (1 - t^2) u' / 2
                          t = tanh u, u = sqrt(2 / pi) (a + 0.044715 a^3)

    da = dy b f'(a),    db = dy f(a)

Phi is the normal distribution function and phi its density. Each keeps a and b; f(a) is made again.
"""

from __future__ import annotations

from functools import partial
from math import pi, sqrt

import jax
import jax.numpy as jnp

from jaxbp.core import floating

Pair = tuple[jax.Array, jax.Array]


def silu_slope(x: jax.Array) -> jax.Array:
    """The derivative of x sigmoid(x)."""
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


def normal_distribution(x: jax.Array) -> jax.Array:
    """Phi. erf is one operation; of the many that make up erfc, XLA would keep three arrays between the passes."""
    return (1 + jax.lax.erf(x / sqrt(2))) / 2


def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """x Phi(x), or its form by tanh."""
    return jax.nn.gelu(x, approximate=True) if approximate else x * normal_distribution(x)


def gelu_slope(x: jax.Array, approximate: bool) -> jax.Array:
    """The derivative of `gelu`."""
    if not approximate:
        return normal_distribution(x) + x * jnp.exp(-x * x / 2) / sqrt(2 * pi)
    t = jnp.tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x))
    return (1 + t) / 2 + x * (1 - t * t) * sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x) / 2


def swiglu_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, Pair]:
    """-> (y, (a, b))."""
    return jax.nn.silu(floating(a)) * b, (a, b)


def swiglu_backward(kept: Pair, dy: jax.Array) -> Pair:
    """-> (da, db)."""
    a, b = kept
    return like(dy * b * silu_slope(a), a), like(dy * jax.nn.silu(a), b)


def geglu_forward(a: jax.Array, b: jax.Array, approximate: bool) -> tuple[jax.Array, Pair]:
    """-> (y, (a, b))."""
    return gelu(floating(a), approximate) * b, (a, b)


def geglu_backward(approximate: bool, kept: Pair, dy: jax.Array) -> Pair:
    """-> (da, db)."""
    a, b = kept
    return like(dy * b * gelu_slope(a, approximate), a), like(dy * gelu(a, approximate), b)


def like(d: jax.Array, a: jax.Array) -> jax.Array:
    """The delta in the dtype of its argument."""
    return d.astype(a.dtype)


@jax.custom_vjp
def swiglu(a: jax.Array, b: jax.Array) -> jax.Array:
    """y = a sigmoid(a) b of equal shapes; da = dy b s (1 + a (1 - s)) with s = sigmoid(a), db = dy a s."""
    return swiglu_forward(a, b)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def geglu(a: jax.Array, b: jax.Array, approximate: bool = False) -> jax.Array:
    """y = gelu(a) b of equal shapes, exact or by tanh; da = dy b gelu'(a), db = dy gelu(a)."""
    return geglu_forward(a, b, approximate)[0]


swiglu.defvjp(swiglu_forward, swiglu_backward)
geglu.defvjp(geglu_forward, geglu_backward)
