"""Positions: a vector for each place of a sequence, added to what stands there. Learned, or sines that are fixed.

    forward   y[n, t] = x[n, t] + w[t]
    backward  dx = dy,   dw[t] = sum_n dy[n, t], and 0 from T on

Keeps nothing. One example's gradient is its own delta, the product of a one-hot place and dy. With carry, a sequence
that comes in parts goes on from the place in Context.state: t = place, place + 1, ...
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, Shared, require, shaped, wide
from jaxbp.errors import InputError
from jaxbp.factors import Factors
from jaxbp.inits import Initializer, initializer
from jaxbp.layers.embedding import OneHotFactors
from jaxbp.ops.weighting import positions


class Placed(Layer):
    """What both share: the place where the input begins."""

    carry: bool

    def init_state(self, spec: PyTree) -> PyTree:
        return {"position": jnp.zeros((), jnp.int32)} if self.carry else {}

    def start(self, ctx: Context) -> jax.Array | None:
        """The place of the first vector; None is 0."""
        return ctx.state["position"] if self.carry and ctx.state is not None else None

    def next_state(self, state: PyTree, cache: Shared | None) -> PyTree:
        return state if cache is None else {"position": cache.value[-1] + 1}


@dataclass(frozen=True)
class Positions(Placed):
    """[N, T, D] -> the same shape, with the table "w" [length, D]; T is at most `length`, which is at least 1.

    carry: goes on from Context.state; a vector from place `length` on is then nan.
    """

    length: int
    w_init: str | Initializer = "lecun_normal"
    carry: bool = False

    def __post_init__(self) -> None:
        require(self, "length", self.length >= 1, "at least 1")
        initializer(self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return {"w": initializer(self.w_init)(key, (self.length, spec.shape[-1]), in_axis=-1, out_axis=-2)}

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Shared | None]:
        if x.shape[1] > self.length:
            raise InputError(f"Positions: there are {self.length} positions, and the input has {x.shape[1]}")
        w = params["w"].astype(x.dtype)
        start = self.start(ctx)
        if start is None:
            return x + w[None, : x.shape[1]], None
        places = positions(x.shape[1], start)
        return x + jnp.take(w, places, 0, mode="fill")[None], Shared(places)

    def backward(self, params: PyTree, cache: Shared | None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        dw = jnp.sum(dy, 0, params["w"].dtype)
        if cache is None:
            return dy, {"w": jnp.pad(dw, ((0, self.length - len(dw)), (0, 0)))}
        return dy, {"w": jnp.zeros_like(params["w"]).at[cache.value].add(dw)}

    def factors(self, params: PyTree, cache: Shared | None, dy: jax.Array) -> dict[str, Factors]:
        places = positions(dy.shape[1]) if cache is None else cache.value
        return {"w": OneHotFactors(jnp.broadcast_to(places[None, :, None], (*dy.shape[:2], 1)), dy, self.length)}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Positions(11), shaped(5, 7, 3)), Case(Positions(11, carry=True), shaped(5, 7, 3), name="carried")]


@dataclass(frozen=True)
class SinusoidalPositions(Placed):
    """[N, T, D] -> the same shape: sin(t / base^(2 i / D)) added to entry 2 i, cos of the same to entry 2 i + 1.

    From Vaswani et al. 2017, arXiv 1706.03762, section 3.5. base: positive. carry: goes on from Context.state.
    """

    base: float = 10_000.0
    carry: bool = False

    def __post_init__(self) -> None:
        require(self, "base", self.base > 0, "positive")

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Shared | None]:
        start = self.start(ctx)
        places = positions(x.shape[1], start)
        return x + self.waves(places, x)[None], None if start is None else Shared(places)

    def waves(self, places: jax.Array, x: jax.Array) -> jax.Array:
        """[T, D] of the places [T], in the dtype of x."""
        entry = jnp.arange(x.shape[-1], dtype=jnp.int32)
        dtype = wide(x[:0]).dtype
        rate = self.base ** (-(2 * (entry // 2)).astype(dtype) / x.shape[-1])
        angle = places.astype(dtype)[:, None] * rate[None]
        return jnp.where((entry % 2 == 0)[None], jnp.sin(angle), jnp.cos(angle)).astype(x.dtype)

    def backward(self, params: PyTree, cache: Shared | None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy, {}

    @classmethod
    def cases(cls) -> list[Case]:
        x = shaped(5, 7, 3)
        return [Case(SinusoidalPositions(), x), Case(SinusoidalPositions(10.0, carry=True), x, name="carried")]
