"""Normalization over the last axis: layer norm (Ba et al. 2016, arXiv 1607.06450), RMS norm (Zhang & Sennrich 2019).

With r = 1 / sqrt(mean (x - m)^2 + epsilon), g = dy scale and every mean over the last axis D:

    layer_norm   z = (x - m) r, m = mean x     dx = r (g - mean g - z mean (g z))
    rms_norm     z = x r, m = 0                dx = r (g - z mean (g z))

    y = z scale + bias       dscale = sum dy z       dbias = sum dy

Each keeps x, which the layer below keeps anyway, and m and r of each vector; z is made again. The variance is a second
pass over x, because mean x^2 - m^2 loses all digits where m is large. mean g = dy . scale / D and mean (g z) =
(dy z) . scale / D are products of a matrix and a vector, so no array g is formed: that is the gain over autodiff.
Statistics are at least float32.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import PyTree, wide
from jaxbp.errors import InputError
from jaxbp.ops.products import times_vector

Vector = jax.Array | None  # [D]; None is ones for a scale, zeros for a bias


def layer_norm_forward(x: jax.Array, scale: Vector, bias: Vector, epsilon: float) -> tuple[jax.Array, PyTree]:
    """-> (y, (x, m, r))."""
    a = wide(x)
    mean = jnp.mean(a, -1, keepdims=True)
    r = jax.lax.rsqrt(jnp.mean(jnp.square(a - mean), -1, keepdims=True) + epsilon)
    y = (a - mean) * r * weights(scale, a, 1) + weights(bias, a, 0)
    return y.astype(x.dtype), (x, mean, r)


def layer_norm_backward(cache: PyTree, scale: Vector, bias: Vector, dy: jax.Array) -> tuple[jax.Array, Vector, Vector]:
    """-> (dx, dscale, dbias)."""
    x, mean, r = cache
    delta = wide(dy)
    z = (wide(x) - mean) * r
    s = weights(scale, z, 1)
    dx = r * (delta * s - weighted_mean(delta, s) - z * weighted_mean(delta * z, s))
    return dx.astype(dy.dtype), summed(delta * z, scale), summed(delta, bias)


def rms_norm_forward(x: jax.Array, scale: Vector, epsilon: float) -> tuple[jax.Array, PyTree]:
    """-> (y, (x, r))."""
    a = wide(x)
    r = jax.lax.rsqrt(jnp.mean(jnp.square(a), -1, keepdims=True) + epsilon)
    return (a * r * weights(scale, a, 1)).astype(x.dtype), (x, r)


def rms_norm_backward(cache: PyTree, scale: Vector, dy: jax.Array) -> tuple[jax.Array, Vector]:
    """-> (dx, dscale)."""
    x, r = cache
    delta = wide(dy)
    z = wide(x) * r
    s = weights(scale, z, 1)
    dx = r * (delta * s - z * weighted_mean(delta * z, s))
    return dx.astype(dy.dtype), summed(delta * z, scale)


def weights(vector: Vector, like: jax.Array, absent: int) -> jax.Array:
    """The vector in the dtype of `like` and with its rank; filled with `absent` where there is none.

    Raises InputError for a vector of another shape than [D].
    """
    channels = like.shape[-1]
    if vector is not None and vector.shape != (channels,):
        raise InputError(
            f"a norm over {channels} channels takes a scale and a bias of shape ({channels},), got {vector.shape}"
        )
    entries = jnp.full(channels, absent, like.dtype) if vector is None else vector.astype(like.dtype)
    return entries.reshape((1,) * (like.ndim - 1) + (-1,))


def summed(deltas: jax.Array, vector: Vector) -> Vector:
    """The gradient of a vector: the sum of deltas [..., D] over their leading axes, in its dtype."""
    return None if vector is None else jnp.sum(deltas, range(deltas.ndim - 1), dtype=vector.dtype)


def weighted_mean(a: jax.Array, scale: jax.Array) -> jax.Array:
    """mean over the last axis of a times scale, [..., D] -> [..., 1]: a product of a matrix and a vector."""
    return times_vector(a, scale.reshape(-1) / a.shape[-1])[..., None]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: Vector = None, bias: Vector = None, epsilon: float = 1e-5) -> jax.Array:
    """y = (x - m) r scale + bias over the last axis of x [..., D], with scale and bias [D]; epsilon above 0.

    m is the mean and r = 1 / sqrt(variance + epsilon); dx = r (g - mean g - z mean (g z)) with z = (x - m) r and
    g = dy scale.
    """
    return layer_norm_forward(x, scale, bias, epsilon)[0]


def layer_norm_keeping(x: jax.Array, scale: Vector, bias: Vector, epsilon: float) -> tuple[jax.Array, PyTree]:
    """`layer_norm_forward` as jax.custom_vjp wants it."""
    y, cache = layer_norm_forward(x, scale, bias, epsilon)
    return y, (cache, scale, bias)


layer_norm.defvjp(layer_norm_keeping, lambda epsilon, kept, dy: layer_norm_backward(kept[0], kept[1], kept[2], dy))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, scale: Vector = None, epsilon: float = 1e-6) -> jax.Array:
    """y = x r scale over the last axis of x [..., D], with scale [D] and r = 1 / sqrt(mean x^2 + epsilon).

    dx = r (g - z mean (g z)) with z = x r and g = dy scale; epsilon above 0.
    """
    return rms_norm_forward(x, scale, epsilon)[0]


def rms_norm_keeping(x: jax.Array, scale: Vector, epsilon: float) -> tuple[jax.Array, PyTree]:
    """`rms_norm_forward` as jax.custom_vjp wants it."""
    y, cache = rms_norm_forward(x, scale, epsilon)
    return y, (cache, scale)


rms_norm.defvjp(rms_norm_keeping, lambda epsilon, kept, dy: rms_norm_backward(kept[0], kept[1], dy))
