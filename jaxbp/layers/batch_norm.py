"""Batch normalization of every channel c over the batch and all spatial axes, s = 1 .. S together.

    forward    m = mean_s x    v = mean_s (x - m)^2    r = 1 / sqrt(v + epsilon)    z = (x - m) r
               y = z scale + bias
    backward   dbias = sum_s dy        dscale = sum_s dy z
               dx = r scale (dy - dbias / S - z dscale / S)         training: m and v depend on x
               dx = r scale dy                                      evaluation: m and v are the running statistics

The last two terms of dx are the ways through m and through v; everything else in their derivatives cancels (Ioffe &
Szegedy 2015, arXiv 1502.03167, section 3), so the two parameter gradients are the only sums of the backward pass.
In training dx does not change when a constant is added to x: the gradient of a bias just before is zero.

In training, rows that do not count (ctx.counts) stand for zeros and have dx = 0; m, v and S are those of the others.
Where devices share the batch (ctx.axes), S, m, v and the two sums in dx are those of all its rows. Then dbias and
dscale stay the device's own: the sum over devices that makes a gradient comes after the sweep.

Keeps x, which the layer below keeps anyway, and the two statistics of each channel; z is made again. v is the mean of
the squared distances from m in a second pass over x: mean x^2 - m^2 loses all digits where m is large. Costs two passes
forward and two backward, where autodiff stores and reads several more arrays of the size of x. On CPU the
backward sums are products with a vector of ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, Running, Shared, register, require, shaped, wide
from jaxbp.errors import InputError
from jaxbp.ops.products import column_sums


@partial(register, data_fields=["count"], meta_fields=["axes"])
@dataclass(frozen=True)
class Across:
    """The mesh axes that split the batch of a forward pass, and how many rows count on all devices together."""

    axes: tuple[str, ...]
    count: jax.Array

    @classmethod
    def of(cls, ctx: Context, rows: jax.Array, counts: jax.Array | None) -> Across | None:
        """None where one device has the whole batch. rows [S, C]."""
        if not ctx.axes or not ctx.train:
            return None
        return cls(ctx.axes, jax.lax.psum(own_count(rows, counts), ctx.axes))


@dataclass(frozen=True)
class BatchNorm(Layer):
    """[N, ..., C] -> the same shape; scale and bias [C]; statistics are at least float32.

    momentum: the part of the running statistics that a step keeps, from 0 to 1 (PyTorch's momentum is one minus it):
    running = momentum running + (1 - momentum) batch. The running variance averages the unbiased S / (S - 1) v, as in
    the paper and in PyTorch (Flax averages v). epsilon: added to the variance, above 0.
    Evaluation (ctx.train False) uses the state in place of the batch's statistics, and raises InputError without one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    couples_batch: ClassVar[bool] = True  # in training; evaluation's cache says Running

    def __post_init__(self) -> None:
        require(self, "momentum", 0 <= self.momentum <= 1, "from 0 to 1")
        require(self, "epsilon", self.epsilon > 0, "positive")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return {"scale": jnp.ones(spec.shape[-1], jnp.float32), "bias": jnp.zeros(spec.shape[-1], jnp.float32)}

    def init_state(self, spec: PyTree) -> PyTree:
        return {"mean": jnp.zeros(spec.shape[-1], jnp.float32), "variance": jnp.ones(spec.shape[-1], jnp.float32)}

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        counts = ctx.counts if ctx.train else None
        across = Across.of(ctx, wide_rows(x), counts)
        rows, average, _ = counted_rows(x, counts, across)
        if ctx.train:
            mean = average(rows)
            statistics = Shared({"mean": mean, "variance": average(jnp.square(rows - mean[None]))})
        elif ctx.state is None:
            raise InputError(f"{type(self).__name__}: evaluation needs running statistics; the context has no state")
        else:
            statistics = Running({name: ctx.state[name].astype(rows.dtype) for name in ("mean", "variance")})
        r = jax.lax.rsqrt(statistics.value["variance"] + self.epsilon)
        scale = params["scale"].astype(rows.dtype)
        bias = params["bias"].astype(rows.dtype)
        y = (rows - statistics.value["mean"][None]) * (r * scale)[None] + bias[None]
        return y.astype(x.dtype).reshape(x.shape), (x, statistics, counts, across)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        x, statistics, counts, across = cache
        rows, _, count = counted_rows(x, counts, across)
        delta = wide_rows(dy)  # [S, C]
        r = jax.lax.rsqrt(statistics.value["variance"] + self.epsilon)
        z = (rows - statistics.value["mean"][None]) * r[None]
        dbias = column_sums(delta)
        dscale = column_sums(delta * z)
        if not isinstance(statistics, Running):
            bias_sum, scale_sum = total(across, (dbias, dscale))
            delta = delta - (bias_sum / count)[None] - z * (scale_sum / count)[None]
        dx = delta * (r * params["scale"].astype(delta.dtype))[None]
        dx = dx.astype(dy.dtype).reshape(dy.shape)
        if counts is not None:
            dx = jnp.where(along_rows(counts, dx), dx, 0)
        return dx, {"scale": dscale.astype(params["scale"].dtype), "bias": dbias.astype(params["bias"].dtype)}

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        x, statistics, counts, across = cache[:4]
        if isinstance(statistics, Running):
            return state
        _, _, count = counted_rows(x, counts, across)
        largest = max if counts is None and across is None else jnp.maximum
        unbiased = statistics.value | {"variance": statistics.value["variance"] * (count / largest(count - 1, 1))}
        average = lambda old, new: self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)
        after = {name: average(state[name], unbiased[name]) for name in state}
        return after if counts is None else jax.tree.map(partial(jnp.where, some_count(counts, across)), after, state)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(BatchNorm(), shaped(5, 3)), Case(BatchNorm(0.7, 1e-3), shaped(5, 2, 3, 7), name="image")]


@dataclass(frozen=True)
class BatchNormReLU(BatchNorm):
    """max(y, 0) of batch normalization, with the parameters and the state of BatchNorm. Keeps the mask of y > 0 too."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        y, cache = super().forward(params, x, ctx)
        return jax.nn.relu(y), (*cache, y > 0)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return super().backward(params, cache[:-1], jnp.where(cache[-1], dy, 0))

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(BatchNormReLU(), shaped(5, 2, 7))]


def wide_rows(x: jax.Array) -> jax.Array:
    """[N, ..., C] -> [S, C], at least float32."""
    return wide(x.reshape(-1, x.shape[-1]))


def along_rows(counts: jax.Array, x: jax.Array) -> jax.Array:
    """counts [N] with as many axes as x [N, ...]."""
    return counts.reshape(-1, *(1,) * (x.ndim - 1))


def counted_rows(
    x: jax.Array, counts: jax.Array | None, across: Across | None = None
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array], float | jax.Array]:
    """-> (rows [S, C], their average [S, C] -> [C], how many count): zeros for rows that do not, which are left out."""
    rows = wide_rows(x)
    if counts is None and across is None:
        return rows, lambda a: jnp.mean(a, 0), len(rows)
    count = jnp.maximum(across.count if across else own_count(rows, counts), 1)

    def counted(a: jax.Array) -> jax.Array:
        return a if counts is None else jnp.where(jnp.repeat(counts, len(a) // len(counts))[:, None], a, 0)

    return counted(rows), lambda a: total(across, jnp.sum(counted(a), 0)) / count, count


def total(across: Across | None, sums: PyTree) -> PyTree:
    """The sums of this device's rows, over all devices that have some of the batch."""
    return jax.lax.psum(sums, across.axes) if across else sums


def some_count(counts: jax.Array, across: Across | None) -> jax.Array:
    """Whether any row of the batch counts."""
    return across.count > 0 if across else jnp.any(counts)


def own_count(rows: jax.Array, counts: jax.Array | None) -> jax.Array:
    """How many of this device's rows [S, C] count."""
    if counts is None:
        return jnp.asarray(len(rows), rows.dtype)
    return jnp.sum(counts, dtype=rows.dtype) * (len(rows) // len(counts))
