"""Add and Concatenate: the layers that take several inputs, as a tuple. A Graph's fan-in ends in one of them.

Add          y = sum_k x_k            dx_k = dy
Concatenate  y = [x_1, x_2, ...]      dx_k = the part of dy that lies where x_k lay
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, Static, shaped


@dataclass(frozen=True)
class Add(Layer):
    """Sum of inputs of one shape."""

    def forward(self, params: PyTree, x: tuple[jax.Array, ...], ctx: Context = Context()) -> tuple[jax.Array, Static]:
        return reduce(jnp.add, x), Static(len(x))

    def backward(self, params: PyTree, count: Static, dy: jax.Array) -> tuple[tuple[jax.Array, ...], PyTree]:
        return (dy,) * count.value, {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Add(), (shaped(5, 3), shaped(5, 3), shaped(5, 3)))]


@dataclass(frozen=True)
class Concatenate(Layer):
    """Inputs side by side along the last axis."""

    def forward(self, params: PyTree, x: tuple[jax.Array, ...], ctx: Context = Context()) -> tuple[jax.Array, Static]:
        return jnp.concatenate(x, -1), Static(tuple(part.shape[-1] for part in x))

    def backward(self, params: PyTree, sizes: Static, dy: jax.Array) -> tuple[tuple[jax.Array, ...], PyTree]:
        return tuple(jnp.split(dy, np.cumsum(sizes.value)[:-1], -1)), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Concatenate(), (shaped(5, 3), shaped(5, 2)))]
