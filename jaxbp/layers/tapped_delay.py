"""TappedDelay: every step sees the steps before it, as in a filter (time-delay networks: Waibel et al. 1989).

    forward   y[n, t] = [x[n, t], x[n, t - 1], ..., x[n, t - taps + 1]]      zeros before the start
    backward  dx[n, t] = sum_k (part k of dy[n, t + k])                      up to the end

With a Dense after it, it is a filter of finite impulse response with learned coefficients. Keeps nothing; costs a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped


@dataclass(frozen=True)
class TappedDelay(Layer):
    """[N, T, D] -> [N, T, taps * D], the newest step first; taps is at least 1."""

    taps: int

    def __post_init__(self) -> None:
        require(self, "taps", self.taps >= 1, "at least 1")

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, None]:
        time = x.shape[1]
        delayed = [jnp.pad(x, ((0, 0), (k, 0), (0, 0)))[:, :time] for k in range(self.taps)]
        return jnp.concatenate(delayed, -1), None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        time = dy.shape[1]
        parts = jnp.split(dy, self.taps, -1)
        advanced = [jnp.pad(part[:, k:], ((0, 0), (0, min(k, time)), (0, 0))) for k, part in enumerate(parts)]
        return reduce(jnp.add, advanced), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(TappedDelay(2), shaped(5, 7, 3))]
