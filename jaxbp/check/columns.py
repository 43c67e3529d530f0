"""The derivative of a function whose rule has no transpose, a loop or an absolute value in it: column by column."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxbp.check.leaves import Gradient, Leaves
from jaxbp.core import PyTree, dot


def by_columns(function: Callable[[Leaves], PyTree]) -> Callable[[Leaves, PyTree], Gradient]:
    """The pullback of a function that has forward mode only: <dy, J e_i> for every entry i."""

    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        flat, shaped = ravel_pytree(leaves)
        entry = lambda i: dot(dy, jax.jvp(function, (leaves,), (shaped(jnp.zeros_like(flat).at[i].set(1)),))[1])
        return shaped(jax.lax.map(entry, jnp.arange(flat.size)))

    return pullback


def has_forward_mode(function: Callable[[Leaves], PyTree], leaves: Leaves) -> bool:
    """Whether JAX can push a tangent through the function: not through a custom_vjp."""
    try:
        jax.eval_shape(lambda leaves: jax.jvp(function, (leaves,), (leaves,)), leaves)
    except Exception:  # its own words come with the reverse mode that is asked for first
        return False
    return True
