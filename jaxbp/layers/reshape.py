"""Flatten and Reshape: the same numbers in another shape; back, the delta in the old one, which the cache keeps."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from jaxbp.core import Case, Context, Layer, PyTree, Static, shaped
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Reshape(Layer):
    """[N, ...] -> [N, *shape]; one entry of shape may be -1."""

    shape: tuple[int, ...]

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Static]:
        try:
            return x.reshape(len(x), *self.shape), Static(x.shape[1:])
        except TypeError:
            raise InputError(f"Reshape: an example of shape {x.shape[1:]} cannot take the shape {self.shape}") from None

    def backward(self, params: PyTree, shape: Static, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy.reshape(len(dy), *shape.value), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Reshape((2, -1)), shaped(5, 3, 2))]


@dataclass(frozen=True)
class Flatten(Layer):
    """[N, ...] -> [N, I]."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Static]:
        return x.reshape(len(x), -1), Static(x.shape[1:])

    def backward(self, params: PyTree, shape: Static, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy.reshape(len(dy), *shape.value), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Flatten(), shaped(5, 3, 2)), Case(Flatten(), shaped(5, 3), name="flat")]
