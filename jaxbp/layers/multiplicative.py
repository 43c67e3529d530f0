"""Neurons that multiply their inputs: bilinear forms of two inputs, and sigma-pi units.

    Bilinear   y_o = sum_ij w_oij a_i c_j + b_o       da_i = sum_oj dy_o w_oij c_j,   dc_j = sum_oi dy_o w_oij a_i
                                                      dw_oij = sum_n dy_o a_i c_j,    db_o = sum_n dy_o
    SigmaPi    y_o = sum_k w_ok P_k + b_o             dw_ok = sum_n dy_o P_k,   dP_k = sum_o dy_o w_ok
               P_k = product of x_i over i in set k   dx_i = sum over the sets k with i of dP_k P_k without x_i

SigmaPi's units are those of Rumelhart & McClelland (1986, Parallel Distributed Processing, chapter 2). A product
without one of its terms is the product of what stands before it and what stands after it: exact at zeros, where
P_k / x_i is not. Both keep their inputs. The activation behind w is a c^T, or P.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, require_weights, weight_and_bias
from jaxbp.ops.bias import add_bias, bias_gradient

Sets = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Bilinear(Layer):
    """y_o = a^T w_o c + b_o of inputs a [N, I] and c [N, J]: w [O, I, J] and b [O].

    The same input twice, by a Graph, makes quadratic neurons. features: O, at least 1. w_init, b_init: names or
    initializers of jaxbp.inits (fan_in = I J, fan_out = O).
    """

    features: int
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        require_weights(self)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        rows, columns = (part.shape[-1] for part in spec)
        params = weight_and_bias(key, (self.features, rows * columns), self.w_init, self.b_init if self.bias else None)
        return params | {"w": params["w"].reshape(self.features, rows, columns)}

    def forward(
        self, params: PyTree, x: tuple[jax.Array, jax.Array], ctx: Context = Context()
    ) -> tuple[jax.Array, PyTree]:
        y = jnp.einsum("ni,oij,nj->no", x[0], params["w"].astype(x[0].dtype), x[1])
        return add_bias(y, params["b"]) if self.bias else y, x

    def backward(
        self, params: PyTree, x: tuple[jax.Array, jax.Array], dy: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], PyTree]:
        a, c = x
        w = params["w"].astype(dy.dtype)
        dx = jnp.einsum("no,oij,nj->ni", dy, w, c), jnp.einsum("no,oij,ni->nj", dy, w, a)
        grads = {"w": jnp.einsum("no,ni,nj->oij", dy, a, c, preferred_element_type=params["w"].dtype)}
        return dx, grads | ({"b": bias_gradient(dy, params["b"].dtype)} if self.bias else {})

    def factors(self, params: PyTree, x: tuple[jax.Array, jax.Array], dy: jax.Array) -> dict[str, Factors]:
        outer = jnp.einsum("ni,nj->nij", *x).reshape(len(dy), 1, -1)
        return with_bias({"w": Factors(outer, dy[:, None])}, self.bias, dy)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Bilinear(4), (shaped(5, 3), shaped(5, 2)))]


@dataclass(frozen=True)
class SigmaPi(Layer):
    """y = P w^T + b with P_k the product of the inputs in set k: [N, I] -> [N, O], w [O, K] and b [O].

    sets: of positions of inputs, such as ((0, 1), (1, 2)); a position may stand in a set more than once. Or a number m
    for all sets of m different inputs. features: O, at least 1. Raises InputError for a position that is not there.
    """

    features: int
    sets: Sets | int = 2
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        require_weights(self)
        whole = self.sets >= 1 if isinstance(self.sets, int) else all(self.sets) and len(self.sets) > 0
        require(self, "sets", whole, "sets of positions, or at least 1")

    def positions(self, inputs: int) -> np.ndarray:
        """[K, m]: the positions in every set; short sets end in `inputs`, the position of a one. Raises InputError."""
        sets = tuple(combinations(range(inputs), self.sets)) if isinstance(self.sets, int) else self.sets
        if not sets or max(map(max, sets)) >= inputs or min(map(min, sets)) < 0:
            raise InputError(f"SigmaPi: sets must have positions from 0 to {inputs - 1}, got {self.sets}")
        longest = max(map(len, sets))
        return np.array([(*positions, *(inputs,) * (longest - len(positions))) for positions in sets])

    def terms(self, x: jax.Array) -> jax.Array:
        """[N, K, m]: the inputs in every set."""
        return jnp.concatenate([x, jnp.ones_like(x[:, :1])], 1)[:, self.positions(x.shape[1])]

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        shape = (self.features, len(self.positions(spec.shape[-1])))
        return weight_and_bias(key, shape, self.w_init, self.b_init if self.bias else None)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        y = jnp.einsum("nk,ok->no", jnp.prod(self.terms(x), -1), params["w"].astype(x.dtype))
        return add_bias(y, params["b"]) if self.bias else y, x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        terms = self.terms(x)
        dp = jnp.einsum("no,ok->nk", dy, params["w"].astype(dy.dtype))
        ones = jnp.ones_like(terms[..., :1])
        before = jnp.cumprod(jnp.concatenate([ones, terms[..., :-1]], -1), -1)
        after = jnp.cumprod(jnp.concatenate([ones, terms[..., :0:-1]], -1), -1)[..., ::-1]
        room = jnp.zeros((len(x), x.shape[1] + 1), dy.dtype)
        dx = room.at[:, self.positions(x.shape[1])].add(dp[..., None] * before * after)[:, :-1]
        products = terms[..., -1] * before[..., -1]
        grads = {"w": jnp.einsum("no,nk->ok", dy, products, preferred_element_type=params["w"].dtype)}
        return dx, grads | ({"b": bias_gradient(dy, params["b"].dtype)} if self.bias else {})

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        products = jnp.prod(self.terms(x), -1)
        return with_bias({"w": Factors(products[:, None], dy[:, None])}, self.bias, dy)

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(SigmaPi(4, ((0, 1, 2), (1, 1), (2,))), shaped(5, 3)),
            Case(SigmaPi(2, 2, bias=False), shaped(5, 4), name="pairs"),
        ]


def with_bias(factors: dict[str, Factors], bias: bool, dy: jax.Array) -> dict[str, Factors]:
    """The factors, and those of a bias where there is one."""
    return factors | ({"b": Factors.of_bias(dy[:, None])} if bias else {})
