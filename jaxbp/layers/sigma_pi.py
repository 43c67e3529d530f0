"""Sigma-pi units: sums of products of two inputs (Rumelhart & McClelland 1986, chapter 2).

    forward   y[s, o] = sum_{i, j} w[o, i, j] x[s, i] x[s, j]
    backward  dx[s, i] = sum_{o, j} dy[s, o] (w[o, i, j] + w[o, j, i]) x[s, j]
              dw[o, i, j] = sum_s dy[s, o] x[s, i] x[s, j]

s runs over all leading axes. Keeps x. Costs some 2 S O I^2 operations forward and four times as many back.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.inits import Initializer, initializer


@dataclass(frozen=True)
class SigmaPi(Layer):
    """y_o = sum_ij w_oij x_i x_j: [..., I] -> [..., O] with w [O, I, I].

    features: O, at least 1. w_init: a name or an initializer of jaxbp.inits (fan_in = I, fan_out = O).
    """

    features: int
    w_init: str | Initializer = "lecun_normal"

    def __post_init__(self) -> None:
        require(self, "features", self.features >= 1, "at least 1")
        initializer(self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        size = spec.shape[-1]
        w = initializer(self.w_init)(key, (self.features * size, size), in_axis=-1, out_axis=-2)
        return {"w": w.reshape(self.features, size, size)}

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array]:
        return jnp.einsum("oij,...i,...j->...o", params["w"].astype(x.dtype), x, x), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        w = params["w"].astype(dy.dtype)
        dx = jnp.einsum("...o,oij,...j->...i", dy, w + jnp.swapaxes(w, 1, 2), x)
        dw = jnp.einsum("...o,...i,...j->oij", dy, x, x, preferred_element_type=params["w"].dtype)
        return dx, {"w": dw}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(SigmaPi(2), shaped(5, 3))]
