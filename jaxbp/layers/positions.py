"""Learned positions: a vector for each place of a sequence, added to what stands there.

    forward   y[n, t] = x[n, t] + w[t]
    backward  dx = dy,   dw[t] = sum_n dy[n, t], and 0 from T on

Keeps nothing. One example's gradient is its own delta, the product of a one-hot place and dy.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, initializer
from jaxbp.layers.embedding import OneHotFactors


@dataclass(frozen=True)
class Positions(Layer):
    """[N, T, D] -> the same shape, with the table "w" [length, D]; T is at most `length`, which is at least 1."""

    length: int
    w_init: str | Initializer = "lecun_normal"

    def __post_init__(self) -> None:
        require(self, "length", self.length >= 1, "at least 1")
        initializer(self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return {"w": initializer(self.w_init)(key, (self.length, spec.shape[-1]), in_axis=-1, out_axis=-2)}

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, None]:
        if x.shape[1] > self.length:
            raise InputError(f"Positions: there are {self.length} positions, and the input has {x.shape[1]}")
        return x + params["w"][None, : x.shape[1]].astype(x.dtype), None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        dw = jnp.sum(dy, 0, params["w"].dtype)
        return dy, {"w": jnp.pad(dw, ((0, self.length - len(dw)), (0, 0)))}

    def factors(self, params: PyTree, cache: None, dy: jax.Array) -> dict[str, Factors]:
        places = jnp.broadcast_to(jnp.arange(dy.shape[1], dtype=jnp.int32)[None, :, None], (*dy.shape[:2], 1))
        return {"w": OneHotFactors(places, dy, self.length)}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Positions(11), shaped(5, 7, 3))]
