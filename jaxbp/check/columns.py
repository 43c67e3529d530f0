"""The derivative of a function whose rule has no transpose, a loop or an absolute value in it: column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, jaxprs_in_params
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


def has_forward_rule(function: Callable[[Leaves], PyTree], leaves: Leaves) -> bool:
    """Whether the function has a custom_jvp, and no custom_vjp, which forbids forward mode."""
    names = {eqn.primitive.name for eqn in operations(jax.make_jaxpr(function)(leaves).jaxpr)}
    return "custom_jvp_call" in names and "custom_vjp_call" not in names


def operations(jaxpr: Any) -> Iterator[JaxprEqn]:
    """The operations of a jaxpr, inner ones included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from operations(inner)
