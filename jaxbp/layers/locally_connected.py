"""Locally connected layer: a convolution whose weights are not shared, each output position has its own.

    forward   y[n, p, o] = sum_k x_p[n, k] w[p, o, k] + b[p, o]       x_p: the patch of x that output p reads
    backward  dx_p[n, k] = sum_o dy[n, p, o] w[p, o, k],  and dx adds them where the patches overlap
              dw[p, o, k] = sum_n dy[n, p, o] x_p[n, k]
              db[p, o]    = sum_n dy[n, p, o]

k runs over the kernel's entries and the input channels. (LeCun 1989, Generalization and network design strategies.)
Keeps x; the patches are gathered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors, GroupedFactors
from jaxbp.inits import Initializer, initializer, require_weights
from jaxbp.layers.convolution import each_axis
from jaxbp.ops.windows import Window, patches, unpatched


@dataclass(frozen=True)
class LocallyConnected(Layer):
    """[N, *space, I] -> [N, *out, features] with w [P, features, K I] and b [P, features], P = the size of `out`.

    kernel: its sizes, one for each of 1 to 3 spatial axes. strides: one for all, or one for each. No padding.
    w_init, b_init: names or initializers of jaxbp.inits (fan_in = K I, fan_out = features). Raises InputError for
    settings outside of these ranges, and in use for inputs that do not fit.
    """

    features: int
    kernel: tuple[int, ...] = (3, 3)
    strides: int | tuple[int, ...] = 1
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        require_weights(self)
        fits = 1 <= len(self.kernel) <= 3 and min(self.kernel) >= 1
        require(self, "kernel", fits, "1 to 3 sizes of at least 1")
        steps = each_axis(self.strides, len(self.kernel))
        require(self, "strides", len(steps) == len(self.kernel) and min(steps) >= 1, "at least 1, one or one an axis")

    def window(self, shape: tuple[int, ...]) -> Window:
        """Where the kernel meets an input of shape [N, *space, I]. Raises InputError where it does not fit."""
        rank = len(self.kernel)
        window = Window(shape[1:-1], self.kernel, each_axis(self.strides, rank), ((0, 0),) * rank, (1,) * rank, 1)
        if len(shape) != rank + 2 or min(window.out) < 1:
            raise InputError(f"LocallyConnected: a kernel of {self.kernel} does not fit an input of {shape}")
        return window

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        positions = prod(self.window(spec.shape).out)
        w_key, b_key = jax.random.split(key)
        one = (self.features, prod(self.kernel) * spec.shape[-1])
        draw = lambda key: initializer(self.w_init)(key, one, in_axis=-1, out_axis=0)
        params = {"w": jax.vmap(draw)(jax.random.split(w_key, positions))}
        if self.bias:
            params["b"] = initializer(self.b_init)(b_key, (positions, self.features), in_axis=-1, out_axis=-1)
        return params

    def flat_patches(self, x: jax.Array) -> jax.Array:
        """[N, P, K I]: what each output position reads."""
        window = self.window(x.shape)
        return patches(x, window).reshape(len(x), prod(window.out), -1)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        y = jnp.einsum("npk,pok->npo", self.flat_patches(x), params["w"].astype(x.dtype))
        if self.bias:
            y = y + params["b"].astype(x.dtype)[None]
        return y.reshape(len(x), *self.window(x.shape).out, -1), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        window = self.window(x.shape)
        w = params["w"]
        delta = dy.reshape(len(dy), -1, dy.shape[-1])  # [N, P, O]
        dx = unpatched(jnp.einsum("npo,pok->npk", delta, w.astype(dy.dtype)), window)
        grads = {"w": jnp.einsum("npo,npk->pok", delta, self.flat_patches(x), preferred_element_type=w.dtype)}
        if self.bias:
            grads["b"] = jnp.sum(delta, 0, dtype=params["b"].dtype)
        return dx, grads

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        delta = dy.reshape(len(dy), -1, dy.shape[-1])
        factors: dict[str, Factors] = {"w": GroupedFactors(self.flat_patches(x)[:, :, None], delta[:, :, None])}
        if self.bias:
            factors["b"] = Factors.of_bias(delta.reshape(len(dy), 1, -1))
        return factors

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(LocallyConnected(2, (3, 2), (2, 1)), shaped(5, 7, 4, 3))]
