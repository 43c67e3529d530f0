"""Closed-form inversion of a trained net: an input for an output, and the inputs that make no difference (Rossen 1990).

    z_l = f^-1(y_l),   y_l-1 = W_l^+ (z_l - b_l)        from the output down, W^+ the pseudo-inverse

Among all that a layer maps to z, y_l-1 is the shortest. The null space of W_l is what may be added to it without a
trace. It is exact where no layer is wider than the one below it, and every y_l-1 is one that f can give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.compose import Chain
from jaxbp.core import Layer, PyTree
from jaxbp.errors import InputError
from jaxbp.layers import Dense, Flatten, Identity, LeakyReLU, Sigmoid, Tanh

INVERSES: dict[type[Layer], Callable[[Any, jax.Array], jax.Array]] = {  # (layer, y) -> x
    Identity: lambda layer, y: y,
    Flatten: lambda layer, y: y,
    Sigmoid: lambda layer, y: jnp.log(y) - jnp.log1p(-y),
    Tanh: lambda layer, y: jnp.arctanh(y),
    LeakyReLU: lambda layer, y: jnp.where(y >= 0, y, y / layer.negative_slope),
}


class Inverse(NamedTuple):
    """Inputs of a net for outputs."""

    x: jax.Array  # [N, I]; nan where an output is beyond what an activation can give
    null_space: jax.Array  # [I - rank, I]: orthonormal directions of x that the first layer does not see


def inverse(model: Layer, params: PyTree, y: jax.Array) -> Inverse:
    """Inputs [N, I] that the net maps to y [N, O]. Raises InputError for what is no chain of Dense and INVERSES."""
    if not isinstance(model, Chain):
        raise InputError(f"inversion is defined for a Chain, got {type(model).__name__}")
    null_space = jnp.zeros((0, y.shape[-1]), y.dtype)
    for _, name, layer in reversed(model.named()):
        if isinstance(layer, Dense):
            w = params[name]["w"]
            y = jnp.einsum("io,no->ni", jnp.linalg.pinv(w), y - params[name]["b"] if layer.bias else y)
            null_space = null_space_of(w)
        elif type(layer) in INVERSES:
            y = INVERSES[type(layer)](layer, y)
        else:
            known = ", ".join(["Dense", *(kind.__name__ for kind in INVERSES)])
            raise InputError(f"{name}: inversion is not defined for {type(layer).__name__}, only for {known}")
    return Inverse(y, null_space)


def null_space_of(w: jax.Array) -> jax.Array:
    """[I - rank, I]: orthonormal rows v with W v = 0, for W [O, I]. Not to be traced: its size depends on W."""
    _, singular, right = jnp.linalg.svd(w, full_matrices=True)
    least = jnp.finfo(w.dtype).eps * max(w.shape) * jnp.max(singular, initial=0)
    return right[int(jnp.sum(singular > least)) :]
