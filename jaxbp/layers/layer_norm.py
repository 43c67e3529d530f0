"""Normalizations within one example: no running statistics, the same in training and evaluation.

With mean over the set that shares its statistics, r = 1 / sqrt(mean (x - m)^2 + epsilon) and g = dy scale:

    LayerNorm   z = (x - m) r, m = mean x     dx = r (g - mean g - z mean (g z))     over the last axis D
    GroupNorm   the same                                                             over all positions and C / groups
    RMSNorm     z = x / sqrt(mean x^2 + e)    dx = r (g - z mean (g z))              over the last axis D

    y = z scale + bias       dscale = sum dy z       dbias = sum dy

(Ba et al. 2016, arXiv 1607.06450; Wu & He 2018, arXiv 1803.08494; Zhang & Sennrich 2019, arXiv 1910.07467.)

Each keeps x, which the layer below keeps anyway, and m and r of each set; z is made again. The first two are the
operations of jaxbp.ops.norms. GroupNorm sums over the positions first: the sums of dy and of dy z of each channel are,
added over the batch, the parameter gradients and, added over a group with the weights scale, its two means.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped, wide
from jaxbp.errors import InputError
from jaxbp.ops.norms import (
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
    summed,
    weights,
)


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


@dataclass(frozen=True)
class LayerNorm(Affine):
    """[N, ..., D] -> the same shape, normalized over D; scale and bias [D] are optional. epsilon above 0.

    Statistics are at least float32.
    """

    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = True

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        return layer_norm_forward(x, params.get("scale"), params.get("bias"), self.epsilon)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        dx, dscale, dbias = layer_norm_backward(cache, params.get("scale"), params.get("bias"), dy)
        gradients = {"scale": dscale, "bias": dbias}
        return dx, {name: gradients[name] for name in params}

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
        return rms_norm_forward(x, params.get("scale"), self.epsilon)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        dx, dscale = rms_norm_backward(cache, params.get("scale"), dy)
        return dx, {"scale": dscale} if self.scale else {}

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
        scale = weights(params.get("scale"), a, 1)
        bias = weights(params.get("bias"), a, 0)
        mean = self.group_mean(jnp.mean(a, 1))
        r = jax.lax.rsqrt(self.group_mean(jnp.mean(jnp.square(a - mean[:, None]), 1)) + self.epsilon)
        y = (a - mean[:, None]) * (r[:, None] * scale) + bias
        return y.astype(x.dtype).reshape(x.shape), (x, mean, r)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        x, mean, r = cache
        delta = by_position(dy)
        z = (by_position(x) - mean[:, None]) * r[:, None]
        scale = weights(params.get("scale"), z, 1)
        dy_sum = jnp.sum(delta, 1)  # [N, C]
        dyz_sum = jnp.sum(delta * z, 1)
        g_mean, gz_mean = (self.group_mean(a * scale[0] / z.shape[1])[:, None] for a in (dy_sum, dyz_sum))
        dx = r[:, None] * (delta * scale - g_mean - z * gz_mean)
        sums = {"scale": dyz_sum, "bias": dy_sum}
        return dx.astype(dy.dtype).reshape(dy.shape), {name: summed(sums[name], p) for name, p in params.items()}

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
