"""The custom rules in a function; and its derivative column by column, where a rule has no transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxbp.check.calls import operations
from jaxbp.check.leaves import Gradient, Leaves
from jaxbp.core import PyTree, dot


def by_columns(function: Callable[[Leaves], PyTree]) -> Callable[[Leaves, PyTree], Gradient]:
    """The pullback of a function that has forward mode only: <dy, J e_i> for every entry i."""

    def pullback(leaves: Leaves, dy: PyTree) -> Gradient:
        flat, shaped = ravel_pytree(leaves)
        entry = lambda i: dot(dy, jax.jvp(function, (leaves,), (shaped(jnp.zeros_like(flat).at[i].set(1)),))[1])
        return shaped(jax.lax.map(entry, jnp.arange(flat.size)))

    return pullback


def rules_of(function: Callable[[Any], PyTree], leaves: PyTree) -> frozenset[str]:
    """Of 'custom_vjp_call', 'custom_jvp_call' and 'symbolic_zeros' (a rule asks for them), what is in a function."""
    eqns = list(operations(jax.make_jaxpr(function)(leaves).jaxpr))
    names = {eqn.primitive.name for eqn in eqns} & {"custom_vjp_call", "custom_jvp_call"}
    return frozenset(names | {"symbolic_zeros" for eqn in eqns if eqn.params.get("symbolic_zeros")})
