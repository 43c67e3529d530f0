"""A dense layer whose weight matrix has a structure: y = x W^T + b with W made of free parameters p.

    forward   W = matrix(p),  y[s, o] = sum_i x[s, i] W[o, i] + b[o]
    backward  dx[s, i] = sum_o dy[s, o] W[o, i]        dW[o, i] = sum_s dy[s, o] x[s, i]        dp = pull(dW)

`pull` is the adjoint of the derivative of `matrix`: jaxbp.structures has both for every structure. Keeps x. W is formed
and costs a dense layer's products; what the structure saves is parameters. The factors behind the gradients of LowRank
are those of two dense layers; of other structures an example's gradient of p is formed where a rule asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp import structures
from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, initializer, require_weights
from jaxbp.ops.bias import add_bias, bias_gradient
from jaxbp.structures import Structure


@dataclass(frozen=True)
class Structured(Layer):
    """y = x W^T + b, [..., I] -> [..., O], where W has a structure of jaxbp.structures.

    features: O, at least 1. structure: such as Toeplitz() or LowRank(8). The parameters are the structure's own and b
    [O]. w_init, b_init: names or initializers of jaxbp.inits. Raises InputError where the sizes do not fit.
    """

    features: int
    structure: Structure
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        require_weights(self)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        w_key, b_key = jax.random.split(key)
        params = self.structure.init(w_key, self.features, spec.shape[-1], initializer(self.w_init))
        if self.bias:
            params["b"] = initializer(self.b_init)(b_key, (self.features,), in_axis=-1, out_axis=-1)
        return params

    def matrix(self, params: PyTree, x: jax.Array) -> jax.Array:
        """W [O, I] in the dtype of x."""
        return self.structure.matrix(params, self.features, x.shape[-1]).astype(x.dtype)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        y = jnp.einsum("...i,oi->...o", x, self.matrix(params, x))
        return add_bias(y, params["b"]) if self.bias else y, x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        dx = jnp.einsum("...o,oi->...i", dy, self.matrix(params, x))
        x = x.reshape(-1, x.shape[-1])  # [S, I]
        dy = dy.reshape(-1, dy.shape[-1])  # [S, O]
        kind = jax.tree.leaves(params)[0].dtype
        grads = self.structure.pull(params, jnp.einsum("so,si->oi", dy, x, preferred_element_type=kind))
        return dx, grads | ({"b": bias_gradient(dy, params["b"].dtype)} if self.bias else {})

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        flat = lambda a: a.reshape(len(a), -1, a.shape[-1])  # [N, S, .]
        x, dy = flat(x), flat(dy)
        factors = {"b": Factors.of_bias(dy)} if self.bias else {}
        if isinstance(self.structure, structures.LowRank):
            u, v = (params[name].astype(x.dtype) for name in ("u", "v"))
            factors["u"] = Factors(jnp.einsum("nsi,ir->nsr", x, v), dy)
            factors["v"] = Factors(jnp.einsum("nso,or->nsr", dy, u), x)
        return factors

    @classmethod
    def cases(cls) -> list[Case]:
        square = {
            "symmetric": structures.Symmetric(),
            "positive": structures.PositiveDefinite(0.1),
            "orthogonal": structures.Cayley(),
        }
        oblong = {
            "toeplitz": structures.Toeplitz(),
            "low_rank": structures.LowRank(3),
            "kronecker": structures.Kronecker(2, 3),
        }
        return [
            *(Case(Structured(6, kind), shaped(5, 2, 6), name=name) for name, kind in oblong.items()),
            *(Case(Structured(4, kind, bias=False), shaped(5, 4), name=name) for name, kind in square.items()),
        ]
