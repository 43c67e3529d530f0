"""Multi-head attention: projections around the operation of jaxbp.ops.scaled_dot_product.

    forward   (q, k, v) = x w^T + b,    o = attention(q, k, v),    y = o u^T + c
    backward  do = dy u,                (dq, dk, dv) = attention's,   dx = (dq, dk, dv) w
              du = dy^T o,  dc = sum dy,   dw = (dq, dk, dv)^T x,     db = sum (dq, dk, dv)

One product makes queries, keys and values; with cross, one makes the queries of x, one keys and values of a memory.
Keeps x, o and what the operation keeps: the weights [N, H, T, S], or for long sequences their log-sum-exp [N, H, T].

Decoding: with carry=L, Context.state holds the keys and values of up to L positions, and the number of those that are
there. A pass writes the new ones behind them and lets its queries see all. So the outputs of a sequence that comes in
parts are those of the whole, and each part is multiplied once. No delta goes back to the parts before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, Shared, register, require, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors
from jaxbp.inits import Initializer
from jaxbp.layers.dense import Dense
from jaxbp.layers.distance import DistanceBias
from jaxbp.layers.recurrent import mask_or_normal
from jaxbp.letters import Letters
from jaxbp.ops import scaled_dot_product as operation
from jaxbp.ops.chunked_attention import Chunked
from jaxbp.ops.rotations import turned
from jaxbp.ops.scaled_dot_product import Kernel, Stored
from jaxbp.ops.weighting import Form, Weighting, check_settings, positions


@partial(register, data_fields=["position", "valid"], meta_fields=[])
@dataclass(frozen=True)
class Carried:
    """Where a part begins that goes on from the state, and the flags of all positions."""

    position: Shared  # of an integer []
    valid: jax.Array | None  # [N, carry]


@partial(register, data_fields=["x", "operation", "carried"], meta_fields=[])
@dataclass(frozen=True)
class Kept:
    """What forward keeps, batch first."""

    x: PyTree  # as it came
    operation: Stored | Chunked | Kernel
    carried: Carried | None

    @property
    def o(self) -> jax.Array:
        """[N, T, H D]: what the operation gave."""
        o = operation.output(self.operation)
        return o.reshape(*o.shape[:2], -1)


@dataclass(frozen=True)
class Attention(Layer):
    """x [N, T, E] -> y [N, T, E]. Every position is a query over the positions that it sees.

    With cross the input is (x, memory): the queries are those of x, keys and values those of the memory [N, S, F].

    A further entry of the input says which keys may be seen: valid [N, S], true (or above 0.5) where one may, or
    integer lengths [N]. A position that may not be seen may hold anything, nan too; a query that sees none gives c.

    heads: of the queries. width: D of a head; None: E / heads. key_heads: heads of keys and values, a divisor of
    heads; None: as many. causal, window, soft_cap, dropout, form, block: see jaxbp.ops.weighting.Weighting. rotary:
    base of the rotary positions, usually 10000; None: none. bias: b and c. Dropout needs a key in training.

    alibi, buckets, reach: a bias of the scores by distance, fixed or learned; see jaxbp.layers.distance. buckets is 0,
    or at least 2 and even; reach is larger than buckets.

    carry: positions that Context.state holds, 0 for none; only with causal, without cross. The outputs of a part that
    does not fit into them are nan. Where the input has flags, they are kept too, and lengths count from the part's
    start.

    axis: of a mesh, whose devices have equal parts of the heads in order; heads and key_heads are those of one.
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
    form: Form = "auto"
    block: int = 256
    carry: int = 0
    cross: bool = False
    alibi: bool = False
    buckets: int = 0
    reach: int = 128
    axis: str | None = None

    def __post_init__(self) -> None:
        require(self, "heads", self.heads >= 1, "at least 1")
        require(self, "width", self.width is None or self.width >= 1, "at least 1")
        require(self, "key_heads", self.heads % (self.key_heads or 1) == 0, f"a divisor of heads={self.heads}")
        check_settings(self)
        require(self, "rotary", self.rotary is None or self.rotary > 0, "positive")
        goes_on = self.carry > 0 and self.causal and not self.cross
        require(self, "carry", self.carry == 0 or goes_on, "0, or positive with causal and without cross")
        require(self, "buckets", self.buckets >= 0 and self.buckets % 2 == 0, "an even number")
        require(self, "reach", self.reach > self.buckets, f"larger than buckets={self.buckets}")
        self.dense()

    @property
    def weighting(self) -> Weighting:
        """What the operation is told."""
        return Weighting(self.causal, self.window, self.soft_cap, self.dropout, self.form, self.block, self.axis)

    def sizes(self, features: int) -> tuple[int, int]:
        """(D, key heads) for inputs of E features. Raises InputError where the heads do not divide them."""
        if self.width is None and features % self.heads:
            raise InputError(f"Attention: heads must divide the {features} features where width is None")
        width = self.width or features // self.heads
        if self.rotary is not None and width % 2:
            raise InputError(f"Attention: rotary positions need an even width of a head, got {width}")
        return width, self.key_heads or self.heads

    @property
    def letters(self) -> Letters:
        if self.alibi or self.carry:  # the slopes are those of all heads, and so is the state
            return Letters()
        counts = {"q": self.heads, "k": self.key_heads or self.heads, "v": self.key_heads or self.heads}
        params = {"out/w": "EH", "distance": "H"}
        groups: dict[str, tuple[int, ...]] = {}
        for name in self.projections:
            params |= {f"{name}/w": "HE", f"{name}/b": "H"}
            groups |= dict.fromkeys((f"{name}/w", f"{name}/b"), tuple(counts[letter] for letter in name))
        return Letters("E", "E", params, {"H": (counts["q"], counts["k"])}, groups)

    @property
    def projections(self) -> dict[str, int]:
        """{name: the index of its input}. A projection's letters say what it makes."""
        return {"q": 0, "kv": 1} if self.cross else {"qkv": 0}

    @property
    def distance(self) -> DistanceBias:
        """The bias of the scores."""
        return DistanceBias(self.heads, self.causal, self.alibi, self.buckets, self.reach)

    def dense(self, features: int = 1) -> Dense:
        """Any projection. Its passes take the number of features from the parameters."""
        return Dense(features, self.bias, self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        inputs, _ = self.parts(spec)
        for x in inputs:
            if len(x.shape) != 3:
                raise InputError(f"Attention: the input is [N, T, E], got {list(x.shape)}")
        features = inputs[0].shape[-1]
        width, key_heads = self.sizes(features)
        heads = {"q": self.heads, "k": key_heads, "v": key_heads}
        keys = jax.random.split(key)
        params = {"out": self.dense(features).init(keys[1], shaped(1, self.heads * width))}
        for name, index in self.projections.items():
            own = keys[0] if index == 0 else jax.random.fold_in(keys[0], index)
            params[name] = self.dense(sum(heads[letter] for letter in name) * width).init(own, inputs[index])
        if self.buckets:
            params["distance"] = jnp.zeros((self.buckets, self.heads), jnp.float32)
        return params

    # --- forward ------------------------------------------------------------------------------------------------------

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[jax.Array, Kept]:
        inputs, valid = self.enter(x)
        seeds = None
        if self.dropout and ctx.train:
            if ctx.key is None:
                raise InputError("Attention: dropout needs a random key: pass Context(key=jax.random.key(seed))")
            seeds = ctx.own_rows(partial(jax.random.bits, ctx.key, dtype=jnp.uint32), (len(inputs[0]),))
        start = ctx.state["position"] if self.carry and ctx.state is not None else None
        heads: dict[str, jax.Array] = {}
        for name, index in self.projections.items():
            z, _ = self.dense().forward(params[name], inputs[index])
            heads |= self.split(name, z, inputs[0].shape[-1])
        q = self.placed(heads["q"], start)
        k = self.placed(heads["k"], start)
        v = heads["v"]
        if start is not None:
            k, v, valid = self.behind(ctx.state, k, v, valid)
        bias = self.scores_bias(params, q.shape[1], k.shape[1], start, q.dtype)
        o, cache = operation.forward(self.weighting, q, k, v, valid, seeds, bias, start)
        if start is not None:
            o = jnp.where(start + o.shape[1] <= self.carry, o, jnp.nan)
        o = o.reshape(*o.shape[:2], -1)
        y, _ = self.dense().forward(params["out"], o)
        return y, Kept(x, cache, None if start is None else Carried(Shared(start), valid))

    def parts(self, x: PyTree) -> tuple[tuple, tuple]:
        """-> (the sequences, the flags or lengths, if there are any)."""
        parts = x if isinstance(x, tuple) else (x,)
        count = 2 if self.cross else 1
        if not count <= len(parts) <= count + 1:
            allowed = "(x, memory) or (x, memory, valid)" if self.cross else "x or (x, valid)"
            raise InputError(f"Attention: the input is {allowed}, got {len(parts)} arrays")
        return parts[:count], parts[count:]

    def enter(self, x: PyTree) -> tuple[tuple[jax.Array, ...], jax.Array | None]:
        """-> (the sequences, that of the keys with zeros where none may be seen; flags [N, S] or None)."""
        inputs, flags = self.parts(x)
        if not flags:
            return inputs, None
        (valid,) = flags
        *others, keys = inputs
        if valid.ndim == 1:
            valid = jnp.arange(keys.shape[1], dtype=valid.dtype)[None] < valid[:, None]
        valid = valid if valid.dtype == bool else valid > 0.5
        return (*others, jnp.where(valid[..., None], keys, 0)), valid

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

    def split(self, name: str, z: jax.Array, features: int) -> dict[str, jax.Array]:
        """z [N, T, heads D] of a projection -> {letter: [N, T, its heads, D]}."""
        width, key_heads = self.sizes(features)
        z = z.reshape(*z.shape[:2], -1, width)
        ends = {"q": (self.heads,), "kv": (key_heads,), "qkv": (self.heads, self.heads + key_heads)}
        parts = [z] if name == "q" else jnp.split(z, ends[name], 2)
        return dict(zip(name, parts, strict=True))

    def placed(self, a: jax.Array, start: jax.Array | None, sign: int = 1) -> jax.Array:
        """Queries or keys at their rotary positions; sign=-1: their deltas on the way back."""
        if self.rotary is None:
            return a
        return turned(a, sign * positions(a.shape[1], start), self.rotary)

    def scores_bias(
        self, params: PyTree, queries: int, keys: int, start: jax.Array | None, dtype: jnp.dtype
    ) -> jax.Array | None:
        """[1, H, T + S - 1]: what is added to the scores by distance."""
        if not self.distance:
            return None
        return self.distance.values(params.get("distance"), distances(queries, keys, start), dtype)

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self, params: PyTree, cache: Kept, dy: jax.Array) -> tuple[PyTree, PyTree]:
        inputs, seen = self.enter(cache.x)
        do, out = self.dense().backward(params["out"], cache.o, dy)
        deltas, distance = self.deltas(params, cache, do)
        grads = {"out": out}
        dx: list[PyTree] = []
        for name, index in self.projections.items():
            d, grads[name] = self.dense().backward(params[name], inputs[index], deltas[name])
            dx.append(d)
        if distance is not None:
            grads["distance"] = distance.gradient().astype(params["distance"].dtype)
        if seen is not None:
            dx[-1] = jnp.where(seen[..., None], dx[-1], 0)
            valid = cache.x[-1]
            dx.append(jnp.zeros_like(valid) if jnp.issubdtype(valid.dtype, jnp.floating) else None)
        return tuple(dx) if len(dx) > 1 else dx[0], grads

    def factors(self, params: PyTree, cache: Kept, dy: jax.Array) -> PyTree:
        inputs, _ = self.enter(cache.x)
        do, _ = self.dense().backward(params["out"], cache.o, dy)
        deltas, distance = self.deltas(params, cache, do, rows=len(dy))
        factors = {"out": self.dense().factors(params["out"], cache.o, dy)}
        for name, index in self.projections.items():
            factors[name] = self.dense().factors(params[name], inputs[index], deltas[name])
        return factors if distance is None else factors | {"distance": distance}

    def deltas(
        self, params: PyTree, cache: Kept, do: jax.Array, rows: int = 1
    ) -> tuple[dict[str, jax.Array], Factors | None]:
        """-> ({projection: the delta of its output}, the factors of the table "distance", summed or for each row)."""
        time = do.shape[1]
        kept = cache.operation
        start = None if cache.carried is None else cache.carried.position.value
        bias = self.scores_bias(params, time, kept.k.shape[2], start, do.dtype)
        if bias is not None:
            bias = jnp.broadcast_to(bias, (rows, *bias.shape[1:]))
        do = do.reshape(*do.shape[:2], self.heads, -1)
        dq, dk, dv, dbias = operation.backward(self.weighting, kept, do, bias, start)
        if start is not None:
            dk, dv = (jax.lax.dynamic_slice_in_dim(a, start, time, 1) for a in (dk, dv))
        heads = {"q": self.placed(dq, start, -1), "k": self.placed(dk, start, -1), "v": dv}
        flat = lambda a: a.reshape(*a.shape[:2], -1)
        deltas = {name: jnp.concatenate([flat(heads[letter]) for letter in name], -1) for name in self.projections}
        if dbias is None or not self.buckets:
            return deltas, None
        return deltas, self.distance.factors(distances(time, kept.k.shape[2], start), dbias)

    # --- the state ----------------------------------------------------------------------------------------------------

    def init_state(self, spec: PyTree) -> PyTree:
        if not self.carry:
            return {}
        (x,), flags = self.parts(spec)
        width, key_heads = self.sizes(x.shape[-1])
        shape = (x.shape[0], self.carry)
        state = {name: jnp.zeros((*shape, key_heads, width), x.dtype) for name in ("k", "v")}
        valid = {"valid": jnp.zeros(shape, bool)} if flags else {}
        return state | valid | {"position": jnp.zeros((), jnp.int32)}

    def next_state(self, state: PyTree, cache: Kept) -> PyTree:
        if cache.carried is None:
            return state
        position = cache.carried.position.value + cache.o.shape[1]
        k, v = (jnp.swapaxes(a, 1, 2) for a in (cache.operation.k, cache.operation.v))
        after = {"k": k, "v": v, "valid": cache.carried.valid, "position": position}
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
            Case(Attention(2, width=4, cross=True), (x, shaped(5, 11, 2)), name="cross", excused=far),
            Case(
                Attention(2, causal=True, alibi=True, buckets=4, reach=6, form="chunked", block=3),
                x,
                name="distance",
                excused=far,
            ),
            Case(
                Attention(2, key_heads=1, buckets=6, reach=9, cross=True),
                (x, shaped(5, 11, 2), shaped(5, 11)),
                mask_or_normal,
                "cross_distance",
                excused=far,
            ),
        ]


def distances(queries: int, keys: int, start: jax.Array | None) -> jax.Array:
    """[T + S - 1]: s - t of each diagonal, for queries from `start` on."""
    return positions(queries + keys - 1, jnp.int32(1 - queries) if start is None else 1 - queries - start)
