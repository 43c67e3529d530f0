"""Multi-head self-attention: projections around the operation of jaxbp.ops.attention.

    forward   (q, k, v) = x w^T + b,    o = attention(q, k, v),    y = o u^T + c
    backward  do = dy u,                (dq, dk, dv) = attention's,   dx = (dq, dk, dv) w
              du = dy^T o,  dc = sum dy,   dw = (dq, dk, dv)^T x,     db = sum (dq, dk, dv)

One product makes queries, keys and values. Keeps x, o and what the operation keeps: the weights [N, H, T, T], or for
long sequences their log-sum-exp [N, H, T].

Decoding: with carry=L, Context.state holds the keys and values of up to L positions, and the number of those that are
there. A pass writes the new ones behind them and lets its queries see all. So the outputs of a sequence that comes in
parts are those of the whole, and each part is multiplied once. No delta goes back to the parts before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, Shared, register, require, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.inits import Initializer
from jaxbp.layers.dense import Dense
from jaxbp.layers.recurrent import mask_or_normal
from jaxbp.ops import attention as operation
from jaxbp.ops.rotary import turned

FORMS = ("auto", "stored", "chunked")


@partial(register, data_fields=["position", "valid"], meta_fields=[])
@dataclass(frozen=True)
class Carried:
    """Where a part begins that goes on from the state, and the flags of all positions."""

    position: Shared  # of an integer []
    valid: jax.Array | None  # [N, carry]


@partial(register, data_fields=["x", "o", "operation", "carried"], meta_fields=[])
@dataclass(frozen=True)
class Kept:
    """What forward keeps, batch first."""

    x: PyTree  # as it came
    o: jax.Array  # [N, T, H D]
    operation: operation.Stored | operation.Chunked
    carried: Carried | None


@dataclass(frozen=True)
class Attention(Layer):
    """x [N, T, E] -> y [N, T, E]. Every position is a query over the positions that it sees.

    The input may be a tuple (x, valid): valid [N, T], true (or above 0.5) where a position may be seen, or integer
    lengths [N]. A position that may not be seen may hold anything, nan too; a query that sees none gives c.

    heads: of the queries. width: D of a head; None: E / heads. key_heads: heads of keys and values, a divisor of
    heads; None: as many. causal, window, soft_cap, dropout, form, block: see jaxbp.ops.attention.Weighting. rotary:
    base of the rotary positions, usually 10000; None: none. bias: b and c. Dropout needs a key in training.

    carry: positions that Context.state holds, 0 for none; only with causal. The outputs of a part that does not fit
    into them are nan. Where the input has flags, they are kept too, and lengths count from the part's start.
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
    carry: int = 0

    def __post_init__(self) -> None:
        require(self, "heads", self.heads >= 1, "at least 1")
        require(self, "width", self.width is None or self.width >= 1, "at least 1")
        require(self, "key_heads", self.heads % (self.key_heads or 1) == 0, f"a divisor of heads={self.heads}")
        require(self, "window", self.window is None or self.window >= 1, "at least 1")
        require(self, "soft_cap", self.soft_cap is None or self.soft_cap > 0, "positive")
        require(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        require(self, "rotary", self.rotary is None or self.rotary > 0, "positive")
        require(self, "block", self.block >= 1, "at least 1")
        require(self, "carry", self.carry == 0 or (self.carry > 0 and self.causal), "0, or positive with causal")
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

    # --- forward ------------------------------------------------------------------------------------------------------

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[jax.Array, Kept]:
        inputs, valid = entered(x)
        seeds = None
        if self.dropout and ctx.train:
            if ctx.key is None:
                raise InputError("Attention: dropout needs a random key: pass Context(key=jax.random.key(seed))")
            seeds = jax.random.bits(ctx.key, (len(inputs),), jnp.uint32)
        start = ctx.state["position"] if self.carry and ctx.state is not None else None
        z, _ = self.dense().forward(params["qkv"], inputs)
        q, k, v = self.split(z, inputs.shape[-1])
        q = self.placed(q, start)
        k = self.placed(k, start)
        if start is not None:
            k, v, valid = self.behind(ctx.state, k, v, valid)
        o, cache = operation.forward(self.weighting, q, k, v, valid, seeds, start)
        if start is not None:
            o = jnp.where(start + o.shape[1] <= self.carry, o, jnp.nan)
        o = o.reshape(*o.shape[:2], -1)
        y, _ = self.dense().forward(params["out"], o)
        return y, Kept(x, o, cache, None if start is None else Carried(Shared(start), valid))

    def behind(
        self, state: PyTree, k: jax.Array, v: jax.Array, valid: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """-> (k, v, valid) of all positions: those of the state, and behind them the new ones."""
        if k.shape[1] > self.carry:
            raise InputError(f"Attention: the state holds {self.carry} positions, and the input has {k.shape[1]}")
        put = lambda name, new: jax.lax.dynamic_update_slice_in_dim(
            state[name].astype(new.dtype), new, state["position"], 1
        )
        return put("k", k), put("v", v), None if valid is None else put("valid", valid)

    def split(self, z: jax.Array, features: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[N, T, (H + 2 K) D] -> queries [N, T, H, D], keys and values [N, T, K, D]."""
        width, key_heads = self.sizes(features)
        z = z.reshape(*z.shape[:2], -1, width)
        return z[:, :, : self.heads], z[:, :, self.heads : self.heads + key_heads], z[:, :, self.heads + key_heads :]

    def placed(self, a: jax.Array, start: jax.Array | None, sign: int = 1) -> jax.Array:
        """Queries or keys at their rotary positions; sign=-1: their deltas on the way back."""
        if self.rotary is None:
            return a
        return turned(a, sign * operation.positions(a.shape[1], start), self.rotary)

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self, params: PyTree, cache: Kept, dy: jax.Array) -> tuple[PyTree, PyTree]:
        inputs, seen = entered(cache.x)
        do, out = self.dense().backward(params["out"], cache.o, dy)
        dx, qkv = self.dense().backward(params["qkv"], inputs, self.deltas(cache, do))
        grads = {"qkv": qkv, "out": out}
        if seen is None:
            return dx, grads
        valid = cache.x[1]
        dx = jnp.where(seen[..., None], dx, 0)
        return (dx, jnp.zeros_like(valid) if jnp.issubdtype(valid.dtype, jnp.floating) else None), grads

    def factors(self, params: PyTree, cache: Kept, dy: jax.Array) -> PyTree:
        do, _ = self.dense().backward(params["out"], cache.o, dy)
        return {
            "qkv": self.dense().factors(params["qkv"], entered(cache.x)[0], self.deltas(cache, do)),
            "out": self.dense().factors(params["out"], cache.o, dy),
        }

    def deltas(self, cache: Kept, do: jax.Array) -> jax.Array:
        """(dq, dk, dv) of the new positions side by side, [N, T, (H + 2 K) D]."""
        rows, time, _ = do.shape
        start = None if cache.carried is None else cache.carried.position.value
        dq, dk, dv = operation.backward(self.weighting, cache.operation, do.reshape(rows, time, self.heads, -1), start)
        if start is not None:
            dk, dv = (jax.lax.dynamic_slice_in_dim(a, start, time, 1) for a in (dk, dv))
        parts = (self.placed(dq, start, -1), self.placed(dk, start, -1), dv)
        return jnp.concatenate([part.reshape(rows, time, -1) for part in parts], -1)

    # --- the state ----------------------------------------------------------------------------------------------------

    def init_state(self, spec: PyTree) -> PyTree:
        if not self.carry:
            return {}
        x = jax.tree.leaves(spec)[0]
        width, key_heads = self.sizes(x.shape[-1])
        shape = (x.shape[0], self.carry)
        state = {name: jnp.zeros((*shape, key_heads, width), x.dtype) for name in ("k", "v")}
        flags = {"valid": jnp.zeros(shape, bool)} if isinstance(spec, tuple) else {}
        return state | flags | {"position": jnp.zeros((), jnp.int32)}

    def next_state(self, state: PyTree, cache: Kept) -> PyTree:
        if cache.carried is None:
            return state
        position = cache.carried.position.value + cache.o.shape[1]
        after = {"k": cache.operation.k, "v": cache.operation.v, "valid": cache.carried.valid, "position": position}
        return {name: after[name].astype(old.dtype) for name, old in state.items()}

    @classmethod
    def cases(cls) -> list[Case]:
        x, flags = shaped(5, 7, 6), shaped(5, 7)
        far = (("hard points", "where all keys are equal, D = do . o leaves the rounding of |do| |v| |k|"),)
        return [
            Case(Attention(3, causal=True), x, excused=far),
            Case(Attention(2, width=4, key_heads=1, soft_cap=2.0, rotary=10.0), (x, flags), mask_or_normal, "masked"),
            Case(Attention(2, causal=True, window=3, dropout=0.3, bias=False), x, name="window", excused=far),
            Case(Attention(3, causal=True, form="chunked", block=3), x, name="chunked", excused=far),
            Case(Attention(2, causal=True, window=3, rotary=10.0, width=2, carry=11), x, name="carried", excused=far),
            Case(
                Attention(2, causal=True, form="chunked", block=3, carry=11),
                (x, flags),
                mask_or_normal,
                "carried_masked",
                excused=far,
            ),
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
