"""A learned vector ahead of a sequence, and the vector that stands first: together one output for a whole sequence.

ClassToken   y = [w, x_1 ... x_T]     dx_t = dy_(t+1),   dw = sum_n dy_n0      (Devlin et al. 2019, arXiv 1810.04805)
First        y = x_1                  dx = [dy, 0 ... 0]
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, Static, shaped
from jaxbp.inits import Initializer, initializer


@dataclass(frozen=True)
class ClassToken(Layer):
    """[N, T, D] -> [N, T + 1, D] with the parameter "w" [1, D]. w_init: a name or an initializer of jaxbp.inits."""

    w_init: str | Initializer = "lecun_normal"

    def __post_init__(self) -> None:
        initializer(self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return {"w": initializer(self.w_init)(key, (1, spec.shape[-1]), in_axis=-1, out_axis=-2)}

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, None]:
        token = jnp.broadcast_to(params["w"].astype(x.dtype)[None], (len(x), 1, x.shape[-1]))
        return jnp.concatenate([token, x], 1), None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy[:, 1:], {"w": jnp.sum(dy[:, :1], 0, params["w"].dtype)}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(ClassToken(), shaped(5, 7, 3))]


@dataclass(frozen=True)
class First(Layer):
    """[N, T, ...] -> [N, ...]."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Static]:
        return x[:, 0], Static(x.shape[1])

    def backward(self, params: PyTree, length: Static, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        rest = jnp.zeros((len(dy), length.value - 1, *dy.shape[1:]), dy.dtype)
        return jnp.concatenate([dy[:, None], rest], 1), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(First(), shaped(5, 7, 3))]
