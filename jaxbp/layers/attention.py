"""Multi-head self-attention: projections around the operation of jaxbp.ops.attention.

    forward   (q, k, v) = x w^T + b,    o = attention(q, k, v),    y = o u^T + c
    backward  do = dy u,                (dq, dk, dv) = attention's,   dx = (dq, dk, dv) w
              du = dy^T o,  dc = sum dy,   dw = (dq, dk, dv)^T x,     db = sum (dq, dk, dv)

One product makes queries, keys and values. Keeps x, o and what the operation keeps: the weights [N, H, T, T], or for
long sequences their log-sum-exp [N, H, T].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.inits import Initializer
from jaxbp.layers.dense import Dense
from jaxbp.layers.recurrent import mask_or_normal
from jaxbp.ops import attention as operation
from jaxbp.ops.rotary import turned

FORMS = ("auto", "stored", "chunked")


@dataclass(frozen=True)
class Attention(Layer):
    """x [N, T, E] -> y [N, T, E]. Every position is a query over the positions that it sees.

    The input may be a tuple (x, valid): valid [N, T], true (or above 0.5) where a position may be seen, or integer
    lengths [N]. A position that may not be seen may hold anything, nan too; a query that sees none gives c.

    heads: of the queries. width: D of a head; None: E / heads. key_heads: heads of keys and values, a divisor of
    heads; None: as many. causal, window, soft_cap, dropout, form, block: see jaxbp.ops.attention.Weighting. rotary:
    base of the rotary positions, usually 10000; None: none. bias: b and c. Dropout needs a key in training.
    """

    heads: int
    width: int | None = None
    key_heads: int | None = None
    causal: bool = False
    window: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0
    rotary: float | None = None
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    form: Literal["auto", "stored", "chunked"] = "auto"
    block: int = 256

    def __post_init__(self) -> None:
        require(self, "heads", self.heads >= 1, "at least 1")
        require(self, "width", self.width is None or self.width >= 1, "at least 1")
        require(self, "key_heads", self.heads % (self.key_heads or 1) == 0, f"a divisor of heads={self.heads}")
        require(self, "window", self.window is None or self.window >= 1, "at least 1")
        require(self, "soft_cap", self.soft_cap is None or self.soft_cap > 0, "positive")
        require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        require(self, "rotary", self.rotary is None or self.rotary > 0, "positive")
        require(self, "block", self.block >= 1, "at least 1")
        if self.form not in FORMS:
            raise unknown("Attention form", self.form, FORMS)
        self.dense()

    @property
    def weighting(self) -> operation.Weighting:
        """What the operation is told."""
        return operation.Weighting(self.causal, self.window, self.soft_cap, self.dropout, self.form, self.block)

    def sizes(self, features: int) -> tuple[int, int]:
        """(D, key heads) for inputs of E features. Raises InputError where the heads do not divide them."""
        if self.width is None and features % self.heads:
            raise InputError(f"Attention: heads must divide the {features} features where width is None")
        width = self.width or features // self.heads
        if self.rotary is not None and width % 2:
            raise InputError(f"Attention: rotary positions need an even width of a head, got {width}")
        return width, self.key_heads or self.heads

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x = jax.tree.leaves(spec)[0]
        if len(x.shape) != 3:
            raise InputError(f"Attention: the input is [N, T, E], got {list(x.shape)}")
        features = x.shape[-1]
        width, key_heads = self.sizes(features)
        keys = jax.random.split(key)
        return {
            "qkv": self.dense((self.heads + 2 * key_heads) * width).init(keys[0], x),
            "out": self.dense(features).init(keys[1], shaped(*x.shape[:2], self.heads * width)),
        }

    def dense(self, features: int = 1) -> Dense:
        """Either projection. Its passes take the number of features from the parameters."""
        return Dense(features, self.bias, self.w_init)

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        inputs, valid = entered(x)
        seeds = None
        if self.dropout and ctx.train:
            if ctx.key is None:
                raise InputError("Attention: dropout needs a random key: pass Context(key=jax.random.key(seed))")
            seeds = jax.random.bits(ctx.key, (len(inputs),), jnp.uint32)
        z, _ = self.dense().forward(params["qkv"], inputs)
        q, k, v = self.split(z, inputs.shape[-1])
        o, cache = operation.forward(self.weighting, self.placed(q), self.placed(k), v, valid, seeds)
        o = o.reshape(*o.shape[:2], -1)
        return self.dense().forward(params["out"], o)[0], (x, o, cache)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[PyTree, PyTree]:
        x, o, _ = cache
        inputs, seen = entered(x)
        do, out = self.dense().backward(params["out"], o, dy)
        dx, qkv = self.dense().backward(params["qkv"], inputs, self.deltas(cache, do))
        grads = {"qkv": qkv, "out": out}
        if seen is None:
            return dx, grads
        valid = x[1]
        dx = jnp.where(seen[..., None], dx, 0)
        return (dx, jnp.zeros_like(valid) if jnp.issubdtype(valid.dtype, jnp.floating) else None), grads

    def factors(self, params: PyTree, cache: PyTree, dy: jax.Array) -> PyTree:
        x, o, _ = cache
        do, _ = self.dense().backward(params["out"], o, dy)
        return {
            "qkv": self.dense().factors(params["qkv"], entered(x)[0], self.deltas(cache, do)),
            "out": self.dense().factors(params["out"], o, dy),
        }

    def deltas(self, cache: PyTree, do: jax.Array) -> jax.Array:
        """(dq, dk, dv) side by side, [N, T, (H + 2 K) D]."""
        _, o, kept = cache
        dq, dk, dv = operation.backward(self.weighting, kept, do.reshape(*o.shape[:2], self.heads, -1))
        parts = (self.placed(dq, -1), self.placed(dk, -1), dv)
        return jnp.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], -1)

    def split(self, z: jax.Array, features: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[N, T, (H + 2 K) D] -> queries [N, T, H, D], keys and values [N, T, K, D]."""
        width, key_heads = self.sizes(features)
        z = z.reshape(*z.shape[:2], -1, width)
        return z[:, :, : self.heads], z[:, :, self.heads : self.heads + key_heads], z[:, :, self.heads + key_heads :]

    def placed(self, a: jax.Array, sign: int = 1) -> jax.Array:
        """Queries or keys at their rotary positions; sign=-1: their deltas on the way back."""
        return a if self.rotary is None else turned(a, sign * jnp.arange(a.shape[1], dtype=jnp.int32), self.rotary)

    @classmethod
    def cases(cls) -> list[Case]:
        x, flags = shaped(5, 7, 6), shaped(5, 7)
        far = (("hard points", "where all keys are equal, D = do . o leaves the rounding of |do| |v| |k|"),)
        return [
            Case(Attention(3, causal=True), x, excused=far),
            Case(Attention(2, width=4, key_heads=1, soft_cap=2.0, rotary=10.0), (x, flags), mask_or_normal, "masked"),
            Case(Attention(2, causal=True, window=3, dropout=0.3, bias=False), x, name="window", excused=far),
            Case(Attention(3, causal=True, form="chunked", block=3), x, name="chunked", excused=far),
            Case(
                Attention(2, window=3, soft_cap=2.0, dropout=0.3, form="chunked", block=3),
                x,
                name="chunked_window",
                excused=far,
            ),
        ]


def entered(x: PyTree) -> tuple[jax.Array, jax.Array | None]:
    """-> (x with zeros where a position may not be seen, flags [N, T] or None)."""
    if not isinstance(x, tuple):
        return x, None
    inputs, valid = x
    if valid.ndim == 1:
        valid = jnp.arange(inputs.shape[1], dtype=valid.dtype)[None] < valid[:, None]
    valid = valid if valid.dtype == bool else valid > 0.5
    return jnp.where(valid[..., None], inputs, 0), valid
