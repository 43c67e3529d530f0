"""Neurons whose values are vectors, multiplied by any bilinear product: complex, quaternion, convolution, one's own.

    (w x)_c = sum_ab T_cab w_a x_b              T: the structure constants of the product, e_a e_b = sum_c T_cab e_c

    forward   y_noc  = sum_iab T_cab w_oia x_nib + b_oc
    backward  dx_nib = sum_oac T_cab w_oia dy_noc
              dw_oia = sum_nbc T_cab x_nib dy_noc
              db_oc  = sum_n dy_noc

The product needs no law for that, and may take two vectors of other lengths to a third one. With T = 1 the layer is a
dense one. (Pearson & Bisset 1994 for Clifford algebras; Trabelsi et al. 2018, arXiv 1705.09792, for complex numbers;
Parcollet et al. 2019, arXiv 1806.04418, for quaternions.) Keeps x. The activation behind w_oia is sum_b T_cab x_nib,
with a row for each c.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, initializer, require_weights
from jaxbp.ops.bias import add_bias

Product = tuple[tuple[tuple[float, ...], ...], ...]  # [C][A][B]


def convolution(weight: int, value: int, size: int) -> Product:
    """The product of polynomials with `weight` and `value` coefficients, modulo z^size - 1.

    With three equal numbers it is the circular convolution, with size = weight + value - 1 the plain one.
    """
    c, a, b = np.indices((size, weight, value))
    return as_product(((a + b) % size == c).astype(int))


def doubled(product: Product) -> Product:
    """The algebra of pairs, (a, b) (c, d) = (a c - d* b, d a + b c*): Cayley and Dickson. The first unit is the 1."""
    t = np.array(product)
    size = len(t)
    conjugate = np.where(np.arange(size) == 0, 1, -1)
    pairs = np.zeros((2, size, 2, size, 2, size), int)
    pairs[0, :, 0, :, 0] = t
    pairs[0, :, 1, :, 1] = -t.swapaxes(1, 2) * conjugate
    pairs[1, :, 0, :, 1] = t.swapaxes(1, 2)
    pairs[1, :, 1, :, 0] = t * conjugate
    return as_product(pairs.reshape(2 * size, 2 * size, 2 * size))


def as_product(t: np.ndarray) -> Product:
    """The array [C, A, B] as tuples."""
    return tuple(tuple(map(tuple, rows)) for rows in t.tolist())


REAL: Product = (((1,),),)
COMPLEX = doubled(REAL)
QUATERNION = doubled(COMPLEX)
LARGEST = float(np.finfo(np.float32).max)
PRODUCTS = {"real": REAL, "complex": COMPLEX, "quaternion": QUATERNION, "octonion": doubled(QUATERNION)}


@dataclass(frozen=True)
class AlgebraDense(Layer):
    """x [N, ..., I, B] -> [N, ..., features, C]: w [features, I, A] times x from the left, and b [features, C].

    product: "real", "complex", "quaternion" (1, i, j, k), "octonion", or the structure constants [C][A][B]. features:
    at least 1. w_init, b_init: names or initializers of jaxbp.inits (fan_in = I A, fan_out = features A). Raises
    InputError for another product, and in use for vectors of another length than B.
    """

    features: int
    product: str | Product = "quaternion"
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        require_weights(self)
        if isinstance(self.product, str):
            if self.product not in PRODUCTS:
                raise unknown("AlgebraDense product", self.product, PRODUCTS)
            return
        try:
            t = np.array(self.product)
        except ValueError:  # rows of several lengths
            t = np.empty(0)
        is_real = t.ndim == 3 and t.size > 0 and t.dtype.kind in "iuf"
        fits = is_real and bool(np.all(np.abs(t.astype(float)) <= LARGEST))
        require(self, "product", fits, f"numbers [C][A][B], or a name; real ones up to {LARGEST:.1e}")
        object.__setattr__(self, "product", as_product(t))

    @property
    def constants(self) -> np.ndarray:
        """T [C, A, B]."""
        return np.array(PRODUCTS[self.product] if isinstance(self.product, str) else self.product, np.float64)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        self.check_input(spec)
        size, weight, _ = self.constants.shape
        w_key, b_key = jax.random.split(key)
        shape = (self.features, spec.shape[-2], weight)
        params = {"w": initializer(self.w_init)(w_key, shape, in_axis=1, out_axis=0)}
        if self.bias:
            params["b"] = initializer(self.b_init)(b_key, (self.features, size), in_axis=-1, out_axis=-1)
        return params

    def check_input(self, x: PyTree) -> None:
        """Raises InputError unless x, an array or its spec, is [N, ..., I, B]."""
        value = self.constants.shape[-1]
        if x.ndim < 3 or x.shape[-1] != value:
            raise InputError(f"AlgebraDense takes [N, ..., I, {value}], got {list(x.shape)}; Reshape makes vectors")

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        self.check_input(x)
        t = self.constants.astype(x.dtype)
        y = jnp.einsum("cab,oia,...ib->...oc", t, params["w"].astype(x.dtype), x)
        return add_bias(y, params["b"]) if self.bias else y, x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        t, w = self.constants.astype(dy.dtype), params["w"]
        flat = lambda a: a.reshape(-1, *a.shape[-2:])
        dx = jnp.einsum("cab,oia,...oc->...ib", t, w.astype(dy.dtype), dy)
        grads = {"w": jnp.einsum("cab,nib,noc->oia", t, flat(x), flat(dy), preferred_element_type=w.dtype)}
        if self.bias:
            grads["b"] = jnp.sum(flat(dy), 0, dtype=params["b"].dtype)
        return dx, grads

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        rows = len(dy)
        a = jnp.einsum("cab,...ib->...cia", self.constants.astype(x.dtype), x)
        delta = jnp.swapaxes(dy, -1, -2)  # [N, ..., C, O]
        w = Factors(a.reshape(rows, -1, a.shape[-2] * a.shape[-1]), delta.reshape(rows, -1, delta.shape[-1]))
        of_bias = dy.reshape(rows, -1, dy.shape[-2] * dy.shape[-1])
        return {"w": w} | ({"b": Factors.of_bias(of_bias)} if self.bias else {})

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(AlgebraDense(7, convolution(2, 3, 4)), shaped(5, 2, 11, 3))]
