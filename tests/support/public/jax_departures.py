"""Rules of jax that depart on purpose; the last three are idioms of documentation and papers, not functions of jax."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxbp.check import Cause

from .references import identity
from .table import normal, peer, public

peer(
    "jax._src.ad_checkpoint",
    "primal_left_tangent_right",
    lambda module: lambda x, _x: module.primal_left_tangent_right(x, _x),
    normal(5),
    normal(5, seed=1),
    departs={"x": Cause.ZERO, "_x": Cause.SWAPPED},
    suite="slow",
)


@public("jax", normal(5), departs={"x": Cause.SIGN}, suite="fast")
def gradient_reversal():
    reverse = jax.custom_vjp(identity)
    reverse.defvjp(lambda x: (x, None), lambda _, dy: (-dy,))
    return lambda x: reverse(x)


@public("jax", normal(5), departs={"x": ""})
def straight_through_round():
    rounded = jax.custom_vjp(lambda x: jnp.round(x))
    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (dy,))
    return lambda x: rounded(x)


@public("jax", normal(5), departs={"x": ""})
def clipped_gradient():
    clipped = jax.custom_vjp(identity)
    clipped.defvjp(lambda x: (x, None), lambda _, dy: (jnp.clip(dy, -0.5, 0.5),))
    return lambda x: clipped(x)
