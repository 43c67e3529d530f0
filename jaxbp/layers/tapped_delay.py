"""TappedDelay: every step sees the steps before it, as in a filter (time-delay networks: Waibel et al. 1989).

    forward   y[n, t] = [x[n, t], x[n, t - 1], ..., x[n, t - taps + 1]]      zeros before the start
    backward  dx[n, t] = sum_k (part k of dy[n, t + k])                      up to the end

With a Dense after it, it is a filter of finite impulse response with learned coefficients. Keeps nothing; costs a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.errors import InputError


@dataclass(frozen=True)
class TappedDelay(Layer):
    """[N, T, D] -> [N, T, taps * D], the newest first; taps at least 1."""

    taps: int

    def __post_init__(self) -> None:
        if self.taps < 1:
            raise InputError(f"TappedDelay: taps must be at least 1, got {self.taps}")

    def forward(self, params: PyTree, x: jax.Array, ctx: Context) -> tuple[jax.Array, None]:
        time = x.shape[1]
        late = lambda k: jnp.pad(x, ((0, 0), (k, 0), (0, 0)))[:, :time]
        return jnp.concatenate([late(k) for k in range(self.taps)], -1), None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        early = lambda k, part: jnp.pad(part[:, k:], ((0, 0), (0, min(k, dy.shape[1])), (0, 0)))
        return sum(early(k, part) for k, part in enumerate(jnp.split(dy, self.taps, -1))), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(TappedDelay(2), shaped(5, 7, 3))]
