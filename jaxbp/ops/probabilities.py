"""Softmax and its logarithm over one axis.

    softmax      y_i = e^x_i / sum_j e^x_j         dx_i = y_i (dy_i - sum_j dy_j y_j)
    log_softmax  y_i = x_i - log sum_j e^x_j       dx_i = dy_i - e^y_i sum_j dy_j

Each keeps y alone. An axis whose entries are all -inf gives nan, as in JAX.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import wide


def softmax_forward(x: jax.Array, axis: int) -> jax.Array:
    """y, computed in at least float32."""
    return jax.nn.softmax(wide(x), axis).astype(x.dtype)


def log_softmax_forward(x: jax.Array, axis: int) -> jax.Array:
    """y, computed in at least float32."""
    return jax.nn.log_softmax(wide(x), axis).astype(x.dtype)


def softmax_backward(y: jax.Array, dy: jax.Array, axis: int) -> jax.Array:
    """dx of softmax, from its output."""
    p = wide(y)
    delta = wide(dy)
    return (p * (delta - jnp.sum(delta * p, axis, keepdims=True))).astype(dy.dtype)


def log_softmax_backward(y: jax.Array, dy: jax.Array, axis: int) -> jax.Array:
    """dx of log_softmax, from its output."""
    delta = wide(dy)
    return (delta - jnp.exp(wide(y)) * jnp.sum(delta, axis, keepdims=True)).astype(dy.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(x: jax.Array, axis: int = -1) -> jax.Array:
    """y_i = e^x_i / sum_j e^x_j along an axis; dx_i = y_i (dy_i - sum_j dy_j y_j)."""
    return softmax_forward(x, axis)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def log_softmax(x: jax.Array, axis: int = -1) -> jax.Array:
    """y_i = x_i - log sum_j e^x_j along an axis; dx_i = dy_i - e^y_i sum_j dy_j."""
    return log_softmax_forward(x, axis)


def twice(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a forward returns that keeps its output."""
    return y, y


softmax.defvjp(lambda x, axis: twice(softmax_forward(x, axis)), lambda axis, y, dy: (softmax_backward(y, dy, axis),))
log_softmax.defvjp(
    lambda x, axis: twice(log_softmax_forward(x, axis)), lambda axis, y, dy: (log_softmax_backward(y, dy, axis),)
)
