"""Normalizations within one example: no running statistics, the same in training and evaluation.

With mean over the set that shares its statistics, r = 1 / sqrt(mean (x - m)^2 + epsilon) and g = dy scale:

    LayerNorm   z = (x - m) r, m = mean x     dx = r (g - mean g - z mean (g z))     over the last axis D
    GroupNorm   the same                                                             over all positions and C / groups
    RMSNorm     z = x / sqrt(mean x^2 + e)    dx = r (g - z mean (g z))              over the last axis D

    y = z scale + bias       dscale = sum dy z       dbias = sum dy

(Ba et al. 2016, arXiv 1607.06450; Wu & He 2018, arXiv 1803.08494; Zhang & Sennrich 2019, arXiv 1910.07467.)

Each keeps x, which the layer below keeps anyway, and m and r of each set; z is made again. The variance is a second
pass over x, because mean x^2 - m^2 loses all digits where m is large. Over the last axis mean g = dy . scale / D and
mean (g z) = (dy z) . scale / D are products of a matrix and a vector, so no array g is formed: that is the gain over
autodiff. GroupNorm sums over the positions first: the sums of dy and of dy z of each channel are, added over the batch,
the parameter gradients and, added over a group with the weights scale, its two means.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped, wide
from jaxbp.errors import InputError


class Affine(Layer):
    """What the three share: y = z scale + bias, where each of the two parameters may be absent."""

    epsilon: float
    scale: bool
    bias: bool

    def __post_init__(self) -> None:
        require(self, "epsilon", self.epsilon > 0, "positive")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        params = {}
        if self.scale:
            params["scale"] = jnp.ones(spec.shape[-1], jnp.float32)
        if self.bias:
            params["bias"] = jnp.zeros(spec.shape[-1], jnp.float32)
        return params

    def weights(self, params: PyTree, like: jax.Array) -> tuple[jax.Array, jax.Array]:
        """scale and bias in the dtype of `like` and with its rank; ones and zeros where a parameter is absent."""
        channels = like.shape[-1]
        scale = params["scale"].astype(like.dtype) if self.scale else jnp.ones(channels, like.dtype)
        bias = params["bias"].astype(like.dtype) if self.bias else jnp.zeros(channels, like.dtype)
        return scale.reshape((1,) * (like.ndim - 1) + (-1,)), bias.reshape((1,) * (like.ndim - 1) + (-1,))

    def gradients(self, params: PyTree, dyz: jax.Array, dy: jax.Array) -> PyTree:
        """{"scale": the sum of dyz [..., C] over its leading axes, "bias": that of dy}, as far as params has them."""
        sums = {"scale": dyz, "bias": dy}
        return {name: jnp.sum(sums[name], range(dy.ndim - 1), dtype=p.dtype) for name, p in params.items()}


@dataclass(frozen=True)
class LayerNorm(Affine):
    """[N, ..., D] -> the same shape, normalized over D; scale and bias [D] are optional. epsilon above 0.

    Statistics are at least float32.
    """

    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = True

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        a = wide(x)
        scale, bias = self.weights(params, a)
        mean = jnp.mean(a, -1, keepdims=True)
        r = jax.lax.rsqrt(jnp.mean(jnp.square(a - mean), -1, keepdims=True) + self.epsilon)
        return ((a - mean) * r * scale + bias).astype(x.dtype), (x, mean, r)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        x, mean, r = cache
        delta = wide(dy)
        z = (wide(x) - mean) * r
        scale, _ = self.weights(params, z)
        dx = r * (delta * scale - weighted_mean(delta, scale) - z * weighted_mean(delta * z, scale))
        return dx.astype(dy.dtype), self.gradients(params, delta * z, delta)

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(LayerNorm(), shaped(5, 3, 7)),
            Case(LayerNorm(1e-3, scale=False, bias=False), shaped(5, 7), name="plain"),
        ]


@dataclass(frozen=True)
class RMSNorm(Affine):
    """[N, ..., D] -> the same shape, divided by the root of the mean square over D; scale [D] is optional.

    epsilon, above 0, is added to the mean square, which is at least float32.
    """

    epsilon: float = 1e-6
    scale: bool = True
    bias = False  # no setting: the paper has none

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        a = wide(x)
        r = jax.lax.rsqrt(jnp.mean(jnp.square(a), -1, keepdims=True) + self.epsilon)
        return (a * r * self.weights(params, a)[0]).astype(x.dtype), (x, r)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        x, r = cache
        delta = wide(dy)
        z = wide(x) * r
        scale, _ = self.weights(params, z)
        dx = r * (delta * scale - z * weighted_mean(delta * z, scale))
        return dx.astype(dy.dtype), self.gradients(params, delta * z, delta)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(RMSNorm(), shaped(5, 3, 7))]


@dataclass(frozen=True)
class GroupNorm(Affine):
    """[N, ..., C] -> the same shape, each example normalized over all positions and the channels of a group.

    groups: divides C; C groups are instance normalization, one is layer normalization of the whole example. epsilon
    above 0; scale and bias [C] are optional. Statistics are at least float32. `init` refuses other groups.
    """

    groups: int
    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "groups", self.groups >= 1, "at least 1")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        if spec.shape[-1] % self.groups:
            raise InputError(f"GroupNorm: groups must divide the {spec.shape[-1]} channels, got {self.groups}")
        return super().init(key, spec)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        a = by_position(x)  # [N, S, C]
        scale, bias = self.weights(params, a)
        mean = self.group_mean(jnp.mean(a, 1))
        r = jax.lax.rsqrt(self.group_mean(jnp.mean(jnp.square(a - mean[:, None]), 1)) + self.epsilon)
        y = (a - mean[:, None]) * (r[:, None] * scale) + bias
        return y.astype(x.dtype).reshape(x.shape), (x, mean, r)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        x, mean, r = cache
        delta = by_position(dy)
        z = (by_position(x) - mean[:, None]) * r[:, None]
        scale, _ = self.weights(params, z)
        dy_sum = jnp.sum(delta, 1)  # [N, C]
        dyz_sum = jnp.sum(delta * z, 1)
        g_mean, gz_mean = (self.group_mean(a * scale[0] / z.shape[1])[:, None] for a in (dy_sum, dyz_sum))
        dx = r[:, None] * (delta * scale - g_mean - z * gz_mean)
        return dx.astype(dy.dtype).reshape(dy.shape), self.gradients(params, dyz_sum, dy_sum)

    def group_mean(self, a: jax.Array) -> jax.Array:
        """[N, C] -> [N, C]: every channel's group mean."""
        grouped = a.reshape(len(a), self.groups, -1)
        return jnp.broadcast_to(jnp.mean(grouped, -1, keepdims=True), grouped.shape).reshape(a.shape)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(GroupNorm(3), shaped(5, 2, 7, 6)), Case(GroupNorm(1), shaped(5, 7), name="flat")]


def by_position(x: jax.Array) -> jax.Array:
    """[N, ..., C] -> [N, S, C], at least float32."""
    return wide(x).reshape(len(x), -1, x.shape[-1])


def weighted_mean(a: jax.Array, scale: jax.Array) -> jax.Array:
    """mean over the last axis of a times scale, [..., D] -> [..., 1]: a product of a matrix and a vector."""
    return jnp.einsum("...d,d->...", a, scale.reshape(-1) / a.shape[-1], precision="highest")[..., None]
