"""Second-order statistics as features: the moments of an image's positions, and whitening over the batch.

    SecondOrderPool   Y = sum_s (x_s - m) (x_s - m)^T / S      dx_s = (dY + dY^T) (x_s - m) / S
                      m = 0, or with `center` the mean; the way through m is 0, for sum_s (x_s - m) = 0
    SymmetricVector   y = (Y_ii, sqrt 2 Y_ij for i < j)        dY = the same back, half of it on each side
    Whitening         z = x - m,  C = sum_s z_s z_s^T / S + epsilon I,  W = C^(-1/2),  y_s = W z_s
                      dC from dW = sum_s dy_s z_s^T by divided differences (jaxbp.ops.spectral_functions)
                      dz_s = W dy_s + 2 dC z_s / S,   dx_s = dz_s - mean_s dz_s

SecondOrderPool, Spectral("log") and SymmetricVector are O2P (Carreira et al. 2012; Ionescu et al. 2015, arXiv
1509.07838); with "sqrt" they are bilinear pooling with the matrix square root (Lin & Maji 2017, arXiv 1707.06772). The
root 2 keeps the inner product of two symmetric matrices. Whitening is decorrelated batch normalization by ZCA (Huang et
al. 2018, arXiv 1804.08450).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, Running, Shared, Static, require, shaped
from jaxbp.errors import InputError
from jaxbp.layers.batch_norm import Across, along_rows, counted_rows, some_count, total, wide_rows
from jaxbp.ops.products import rounded
from jaxbp.ops.spectral_functions import NAMED, product, spectral_backward, spectral_forward, square, symmetric

UNEQUAL = (("hard points", "JAX's derivative of eigh is nan at equal eigenvalues, where this one is exact"),)
INVERSE_SQRT = NAMED["inverse_sqrt"]


@dataclass(frozen=True)
class SecondOrderPool(Layer):
    """The second moments of the channels over all positions: [N, ..., C] -> [N, C, C]; with `center` the covariance.

    Its rank is at most the number of positions (one less with `center`): put a floor or a ridge under a logarithm.
    """

    center: bool = False

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        rows = x.reshape(len(x), -1, x.shape[-1])  # [N, S, C]
        if self.center:
            rows = rows - jnp.mean(rows, 1, keepdims=True)
        return rounded("nsi,nsj->nij", rows, rows) / rows.shape[1], (rows, Static(x.shape[1:]))

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        rows, shape = cache
        dx = rounded("nij,nsj->nsi", 2 * symmetric(dy), rows) / rows.shape[1]
        return dx.reshape(len(dx), *shape.value), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(SecondOrderPool(), shaped(5, 2, 3, 7)), Case(SecondOrderPool(center=True), shaped(5, 4, 3))]


@dataclass(frozen=True)
class SymmetricVector(Layer):
    """[N, D, D] -> [N, D (D + 1) / 2]: the entries i <= j of the symmetric part, those with i < j times sqrt 2."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Static]:
        rows, columns = np.triu_indices(square(x).shape[-1])
        scale = np.where(rows == columns, 1, 2**0.5).astype(x.dtype)
        return symmetric(x)[:, rows, columns] * scale[None], Static(x.shape[-1])

    def backward(self, params: PyTree, size: Static, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        rows, columns = np.triu_indices(size.value)
        scale = np.where(rows == columns, 1, 2**0.5).astype(dy.dtype)
        dx = jnp.zeros((len(dy), size.value, size.value), dy.dtype).at[:, rows, columns].set(dy * scale[None])
        return symmetric(dx), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(SymmetricVector(), shaped(5, 3, 3))]


@dataclass(frozen=True)
class Whitening(Layer):
    """y = C^(-1/2) (x - m): [N, ..., C] -> the same shape, with no mean and nearly the identity as covariance.

    Where devices share the batch (ctx.axes) the statistics are those of all its rows, as of BatchNorm. momentum: the
    part of the running statistics that a step keeps, from 0 to 1. epsilon: added to the variances, above 0. Evaluation
    uses the running mean and covariance, and raises InputError without a state.
    """

    momentum: float = 0.9
    epsilon: float = 1e-3
    couples_batch: ClassVar[bool] = True  # in training; evaluation's cache says Running

    def __post_init__(self) -> None:
        require(self, "momentum", 0 <= self.momentum <= 1, "from 0 to 1")
        require(self, "epsilon", self.epsilon > 0, "positive")

    def init_state(self, spec: PyTree) -> PyTree:
        channels = spec.shape[-1]
        return {"mean": jnp.zeros(channels, jnp.float32), "covariance": jnp.eye(channels, dtype=jnp.float32)}

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        counts = ctx.counts if ctx.train else None
        across = Across.of(ctx, wide_rows(x), counts)
        rows, average, count = counted_rows(x, counts, across)
        if ctx.train:
            mean = average(rows)
            z = inside(rows - mean[None], counts)
            statistics = Shared({"mean": mean, "covariance": total(across, product("si,sj->ij", z, z)) / count})
        elif ctx.state is None:
            raise InputError("Whitening: evaluation needs running statistics; the context has no state")
        else:
            statistics = Running({name: ctx.state[name].astype(rows.dtype) for name in ("mean", "covariance")})
        ridge = self.epsilon * jnp.eye(rows.shape[-1], dtype=rows.dtype)
        w, kept = spectral_forward(INVERSE_SQRT, self.epsilon, statistics.value["covariance"] + ridge)
        y = product("ij,sj->si", w, rows - statistics.value["mean"][None])
        return y.astype(x.dtype).reshape(x.shape), (x, statistics, Shared((w, kept)), counts, across)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        x, statistics, root, counts, across = cache
        rows, _, count = counted_rows(x, counts, across)
        w, kept = root.value
        z = rows - statistics.value["mean"][None]
        delta = wide_rows(dy)
        dx = product("ij,si->sj", w, delta)
        if not isinstance(statistics, Running):
            slope = total(across, product("si,sj->ij", delta, z))
            dc = spectral_backward(INVERSE_SQRT, self.epsilon, kept, slope)[0]
            dx = (
                dx
                - (total(across, jnp.sum(dx, 0)) / count)[None]
                + 2 * product("ij,sj->si", dc, inside(z, counts)) / count
            )
        dx = dx.astype(dy.dtype).reshape(dy.shape)
        return dx if counts is None else jnp.where(along_rows(counts, dx), dx, 0), {}

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        _, statistics, _, counts, across = cache
        if isinstance(statistics, Running):
            return state
        average = lambda old, new: self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)
        after = {name: average(state[name], statistics.value[name]) for name in state}
        return after if counts is None else jax.tree.map(partial(jnp.where, some_count(counts, across)), after, state)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Whitening(), shaped(5, 2, 3), excused=UNEQUAL)]


def inside(rows: jax.Array, counts: jax.Array | None) -> jax.Array:
    """rows [S, C], with zeros where a row of the batch does not count."""
    return rows if counts is None else jnp.where(jnp.repeat(counts, len(rows) // len(counts))[:, None], rows, 0)
