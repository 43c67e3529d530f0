"""Fully connected layer, over any leading axes.

    forward   y[s, o] = sum_i x[s, i] w[o, i] + b[o]
    backward  dx[s, i] = sum_o dy[s, o] w[o, i]          BP2
              dw[o, i] = sum_s dy[s, o] x[s, i]          BP4
              db[o]    = sum_s dy[s, o]                  BP3

s runs over all leading axes (batch, time). Keeps x, which the layer below keeps anyway. Costs three products of
2 S I O operations. Weights are stored output-first, as the literature writes w^l_jk: the long input axis is then the
last one of every product, which is 1.3 times as fast on CPU for a 784-30-10 net and equal elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, require_weights, weight_and_bias
from jaxbp.letters import Letters
from jaxbp.ops.bias import add_bias, bias_gradient
from jaxbp.ops.products import rounded


@dataclass(frozen=True)
class Dense(Layer):
    """y = x w^T + b: [..., I] -> [..., O] with w [O, I] and b [O].

    features: O, at least 1. w_init, b_init: names or initializers of jaxbp.inits (fan_in = I, fan_out = O).
    """

    features: int
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        require_weights(self)

    @property
    def letters(self) -> Letters:
        return Letters("I", "O", {"w": "OI", "b": "O"}, {"O": (self.features,)})

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        shape = (self.features, spec.shape[-1])
        return weight_and_bias(key, shape, self.w_init, self.b_init if self.bias else None)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        y = rounded("...i,oi->...o", x, params["w"].astype(x.dtype))
        return add_bias(y, params["b"]) if self.bias else y, x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        dx = rounded("...o,oi->...i", dy, params["w"].astype(dy.dtype))
        x = x.reshape(-1, x.shape[-1])  # [S, I]
        dy = dy.reshape(-1, dy.shape[-1])  # [S, O]
        grads = {"w": jnp.einsum("so,si->oi", dy, x, preferred_element_type=params["w"].dtype)}
        if self.bias:
            grads["b"] = bias_gradient(dy, params["b"].dtype)
        return dx, grads

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        flat = lambda a: a.reshape(len(a), -1, a.shape[-1])  # [N, S, .]
        factors = {"w": Factors(flat(x), flat(dy))}
        if self.bias:
            factors["b"] = Factors.of_bias(flat(dy))
        return factors

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(Dense(7), shaped(5, 3)),
            Case(Dense(7, bias=False), shaped(5, 3), name="no_bias"),
            Case(Dense(7, b_init="ones"), shaped(5, 2, 3), name="time"),
            Case(Dense(2), shaped(5, 11, 7, 3), name="image"),
        ]
