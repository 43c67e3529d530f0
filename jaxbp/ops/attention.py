"""Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762), forward and backward, in two forms.

With queries q_t, keys k_s, values v_s, a soft cap (Gemma 2, arXiv 2408.00118), a mask and dropout m of the weights:

    c_ts = cap tanh(scale q_t . k_s / cap)                      dv_s  = sum_t p_ts m_ts do_t
    p_ts = exp(c_ts - L_t),  L_t = log sum_s exp c_ts           dp_ts = m_ts do_t . v_s
    o_t  = sum_s p_ts m_ts v_s                                  ds_ts = p_ts (dp_ts - D_t) (1 - (c_ts / cap)^2)
                                                                D_t   = sum_s p_ts dp_ts = do_t . o_t
                                                                dq_t  = scale sum_s ds_ts k_s
                                                                dk_s  = scale sum_t ds_ts q_t

stored   keeps p [N, K, G, T, S]: four products back.
chunked  keeps L and o (Dao et al. 2022, arXiv 2205.14135). Both ways it is one loop over the blocks of queries and keys
         that meet at all. p of one block exists at a time and is made again on the way back: five products, memory
         linear in T.

Query heads k, g share the key head k: H = K G (Ainslie et al. 2023, arXiv 2305.13245); the sum over g lies in the
einsum. A query without any key gives zeros and gets no gradient. Softmax is computed in at least float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import PyTree, wide

CHUNKED_FROM = 512**2  # scores of a head, from which on the chunked form is faster, and far leaner


@dataclass(frozen=True)
class Weighting:
    """Which keys a query weighs, how, and in which form.

    causal: keys up to the query's own position. window: with causal the last `window` keys, else those nearer than
    `window` on both sides. soft_cap: bound of the scores' magnitude. dropout: fraction of the weights dropped. form:
    "auto" takes the chunked form for long sequences. block: positions in a block of that form.
    """

    causal: bool = False
    window: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0
    form: Literal["auto", "stored", "chunked"] = "auto"
    block: int = 256

    def is_chunked(self, queries: int, keys: int) -> bool:
        """Whether the chunked form is taken."""
        return queries * keys >= CHUNKED_FROM if self.form == "auto" else self.form == "chunked"

    def sees(self, t: jax.Array, s: jax.Array) -> jax.Array:
        """[T, S]: whether the query at each position t [T] sees the key at each position s [S]."""
        ahead = s[None, :] - t[:, None]
        seen = ahead <= 0 if self.causal else jnp.ones(ahead.shape, bool)
        return seen if self.window is None else seen & (jnp.abs(ahead) < self.window)

    def blocks(self, queries: int, keys: int, size: int, moved: bool) -> np.ndarray:
        """[blocks, 2]: the blocks (of queries, of keys) of `size` positions in which any query sees any key.

        moved: the queries' positions are not known yet, so all blocks may meet.
        """
        pairs = []
        for i in range(-(-queries // size)):
            for j in range(-(-keys // size)):
                nearest = max(0, abs(i - j) * size - size + 1)
                if moved or (not (self.causal and j > i) and (self.window is None or nearest < self.window)):
                    pairs.append((i, j))
        return np.asarray(pairs, np.int32).reshape(-1, 2)

    def scores(self, q: jax.Array, k: jax.Array, valid: jax.Array | None, t: jax.Array, s: jax.Array) -> jax.Array:
        """c [N, K, G, T, S] of queries [N, T, K, G, D] at t and keys [N, S, K, D] at s; -inf where unseen."""
        c = product("ntkgd,nskd->nkgts", q * scale(q), k)
        if self.soft_cap is not None:
            c = self.soft_cap * jnp.tanh(c / self.soft_cap)
        seen = self.sees(t, s)[None, None, None]
        if valid is not None:
            seen = seen & valid[:, None, None, None, :]
        return jnp.where(seen, c, -jnp.inf)

    def slope(self, c: jax.Array) -> jax.Array | float:
        """The derivative of the soft cap, from its value; 0 where a key is not seen."""
        return 1.0 if self.soft_cap is None else jnp.where(c > -jnp.inf, 1 - jnp.square(c / self.soft_cap), 0)

    def kept(self, seeds: jax.Array | None, block: jax.Array | int, shape: tuple[int, ...]) -> jax.Array | None:
        """m != 0 for weights [N, ...] of a block: a function of each example's seed [N] and the block's number."""
        if seeds is None:
            return None
        draw = lambda seed: jax.random.bernoulli(
            jax.random.fold_in(jax.random.key(seed), block), 1 - self.dropout, shape[1:]
        )
        return jax.vmap(draw)(seeds)

    def dropped(self, weights: jax.Array, kept: jax.Array | None) -> jax.Array:
        """m times the weights."""
        return weights if kept is None else jnp.where(kept, weights / (1 - self.dropout), 0)


def product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum with sums in at least float32."""
    return jnp.einsum(letters, a, b, preferred_element_type=wide(a[:0]).dtype)


def scale(q: jax.Array) -> float:
    """1 / sqrt(D)."""
    return float(q.shape[-1] ** -0.5)


def positions(count: int, start: jax.Array | None = None) -> jax.Array:
    """[count]: start, start + 1, ...; from 0 where there is no start."""
    steps = jnp.arange(count, dtype=jnp.int32)
    return steps if start is None else start + steps


def normalized(weights: jax.Array, total: jax.Array) -> jax.Array:
    """weights / total, and 0 where the total is 0."""
    return weights / jnp.where(total == 0, 1, total)


def mean_delta(do: jax.Array, o: jax.Array) -> jax.Array:
    """D [N, K, G, T]: do_t . o_t, the mean of dp_ts with the weights p_ts."""
    return jnp.einsum("ntkgd,ntkgd->nkgt", do.astype(o.dtype), o)


class Stored(NamedTuple):
    """What the stored form keeps, batch first."""

    q: jax.Array  # [N, T, K, G, D]
    k: jax.Array  # [N, S, K, D]
    v: jax.Array
    p: jax.Array  # [N, K, G, T, S]
    o: jax.Array  # like q, in at least float32, since D is a difference's part
    c: jax.Array | None  # the capped scores, if there is a cap
    kept: jax.Array | None  # where dropout leaves p


def stored_forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None,
    seeds: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, Stored]:
    """q [N, T, K, G, D], k and v [N, S, K, D], valid [N, S], seeds [N] of the dropout, start -> (o like q, cache)."""
    t = positions(q.shape[1], start)
    c = weighting.scores(q, k, valid, t, positions(k.shape[1]))
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(c, -1, keepdims=True), jnp.finfo(c.dtype).min))
    e = jnp.exp(c - largest)
    p = normalized(e, jnp.sum(e, -1, keepdims=True))
    kept = weighting.kept(seeds, 0, p.shape)
    o = product("nkgts,nskd->ntkgd", weighting.dropped(p, kept).astype(v.dtype), v)
    return o.astype(q.dtype), Stored(q, k, v, p, o, None if weighting.soft_cap is None else c, kept)


def stored_backward(weighting: Weighting, cache: Stored, do: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> (dq, dk, dv)."""
    q, k, v, p, o, c, kept = cache
    dv = product("nkgts,ntkgd->nskd", weighting.dropped(p, kept).astype(do.dtype), do)
    dp = weighting.dropped(product("ntkgd,nskd->nkgts", do, v), kept)
    ds = p * (dp - mean_delta(do, o)[..., None])
    if c is not None:
        ds = ds * weighting.slope(c)
    ds = ds.astype(q.dtype)
    dq = product("nkgts,nskd->ntkgd", ds, k) * scale(q)
    dk = product("nkgts,ntkgd->nskd", ds, q * scale(q))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


class Chunked(NamedTuple):
    """What the chunked form keeps, batch first."""

    q: jax.Array  # [N, T, K, G, D]
    k: jax.Array  # [N, S, K, D]
    v: jax.Array
    valid: jax.Array | None  # [N, S]
    seeds: jax.Array | None  # [N]
    o: jax.Array  # as in Stored
    log_total: jax.Array  # L [N, K, G, T]; inf for a query without any key


def chunked_forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None,
    seeds: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, Chunked]:
    """As `stored_forward`, block by block (Milakov & Gimelshein 2018, arXiv 1805.02867)."""
    blocks = Blocks(weighting, q, k, v, valid, seeds, start)
    rows = (*blocks.q.shape[:1], *blocks.q.shape[2:4], blocks.q.shape[1])  # [N, K, G, T]
    dtype = wide(q[:0]).dtype
    initial = (jnp.zeros(blocks.q.shape, dtype), jnp.full(rows, jnp.finfo(dtype).min, dtype), jnp.zeros(rows, dtype))

    def step(carry: PyTree, number_and_pair: PyTree) -> tuple[PyTree, None]:
        number, (i, j) = number_and_pair
        o, largest, total = carry
        _, _, v, c, kept = blocks.meet(number, i, j)
        before = blocks.of(largest, i, 3)
        after = jax.lax.stop_gradient(jnp.maximum(before, jnp.max(c, -1)))
        shrunk = jnp.exp(before - after)
        e = jnp.exp(c - after[..., None])
        added = product("nkgts,nskd->ntkgd", weighting.dropped(e, kept).astype(v.dtype), v)
        o_block = blocks.of(o, i, 1) * jnp.moveaxis(shrunk, 3, 1)[..., None] + added
        total_block = blocks.of(total, i, 3) * shrunk + jnp.sum(e, -1)
        return (
            blocks.put(o, o_block, i, 1),
            blocks.put(largest, after, i, 3),
            blocks.put(total, total_block, i, 3),
        ), None

    (o, largest, total), _ = jax.lax.scan(step, initial, blocks.numbered)
    log_total = jnp.where(total == 0, jnp.inf, largest + jnp.log(jnp.where(total == 0, 1, total)))
    t = q.shape[1]
    o = normalized(o, jnp.moveaxis(total, 3, 1)[..., None])[:, :t]
    return o.astype(q.dtype), Chunked(q, k, v, valid, seeds, o, log_total[..., :t])


def chunked_backward(
    weighting: Weighting, cache: Chunked, do: jax.Array, start: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-> (dq, dk, dv)."""
    q, k, v, valid, seeds, o, log_total = cache
    blocks = Blocks(weighting, q, k, v, valid, seeds, start)
    dtype = wide(q[:0]).dtype
    do_all = blocks.padded(do, 1)
    mean = blocks.padded(mean_delta(do, o), 3)
    log_total = blocks.padded(log_total, 3, jnp.inf)
    initial = tuple(jnp.zeros(a.shape, dtype) for a in (blocks.q, blocks.k, blocks.v))

    def step(carry: PyTree, number_and_pair: PyTree) -> tuple[PyTree, None]:
        number, (i, j) = number_and_pair
        dq, dk, dv = carry
        q, k, v, c, kept = blocks.meet(number, i, j)
        do = blocks.of(do_all, i, 1)
        p = jnp.exp(c - blocks.of(log_total, i, 3)[..., None])
        dv_block = product("nkgts,ntkgd->nskd", weighting.dropped(p, kept).astype(do.dtype), do)
        dp = weighting.dropped(product("ntkgd,nskd->nkgts", do, v), kept)
        ds = p * (dp - blocks.of(mean, i, 3)[..., None]) * weighting.slope(c)
        ds = ds.astype(q.dtype)
        dq_block = product("nkgts,nskd->ntkgd", ds, k) * scale(q)
        dk_block = product("nkgts,ntkgd->nskd", ds, q * scale(q))
        return (blocks.add(dq, dq_block, i), blocks.add(dk, dk_block, j), blocks.add(dv, dv_block, j)), None

    (dq, dk, dv), _ = jax.lax.scan(step, initial, blocks.numbered)
    return dq[:, : q.shape[1]].astype(q.dtype), dk[:, : k.shape[1]].astype(k.dtype), dv[:, : v.shape[1]].astype(v.dtype)


class Blocks:
    """Queries, keys and values in blocks of positions, the last ones filled up with positions that see nothing."""

    def __init__(
        self,
        weighting: Weighting,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        valid: jax.Array | None,
        seeds: jax.Array | None,
        start: jax.Array | None,
    ) -> None:
        self.weighting = weighting
        self.size = min(weighting.block, max(q.shape[1], k.shape[1]))
        self.q = self.padded(q, 1)
        self.k = self.padded(k, 1)
        self.v = self.padded(v, 1)
        self.keys = k.shape[1]
        self.valid = None if valid is None else self.padded(valid, 1)
        self.seeds = seeds
        self.start = start
        pairs = weighting.blocks(q.shape[1], k.shape[1], self.size, moved=start is not None)
        self.numbered = jnp.arange(len(pairs), dtype=jnp.int32), (jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1]))

    def padded(self, a: jax.Array, axis: int, fill: float = 0) -> jax.Array:
        """The array, filled up along the axis to a multiple of `size`."""
        widths = [(0, 0)] * a.ndim
        widths[axis] = (0, -a.shape[axis] % self.size)
        return jnp.pad(a, widths, constant_values=jnp.asarray(fill, a.dtype))

    def of(self, a: jax.Array, i: jax.Array, axis: int) -> jax.Array:
        """Block i of the array along the axis."""
        return jax.lax.dynamic_slice_in_dim(a, i * self.size, self.size, axis)

    def put(self, a: jax.Array, block: jax.Array, i: jax.Array, axis: int) -> jax.Array:
        """The array with another block i."""
        return jax.lax.dynamic_update_slice_in_dim(a, block, i * self.size, axis)

    def add(self, a: jax.Array, block: jax.Array, i: jax.Array) -> jax.Array:
        """The array [N, T, ...] with something added to block i."""
        return self.put(a, self.of(a, i, 1) + block, i, 1)

    def meet(self, number: jax.Array, i: jax.Array, j: jax.Array) -> tuple:
        """-> (q, k, v, c, kept) of queries in block i and keys in block j."""
        q = self.of(self.q, i, 1)
        k = self.of(self.k, j, 1)
        t = positions(self.size, i * self.size if self.start is None else self.start + i * self.size)
        s = positions(self.size, j * self.size)
        valid = (s < self.keys)[None] if self.valid is None else self.of(self.valid, j, 1) & (s < self.keys)[None]
        c = self.weighting.scores(q, k, valid, t, s)
        return q, k, self.of(self.v, j, 1), c, self.weighting.kept(self.seeds, number, c.shape)


def forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None = None,
    seeds: jax.Array | None = None,
    start: jax.Array | None = None,
) -> tuple[jax.Array, Stored | Chunked]:
    """q [N, T, H, D], k and v [N, S, K, D], valid [N, S], seeds [N], start -> (o [N, T, H, D], cache)."""
    run = chunked_forward if weighting.is_chunked(q.shape[1], k.shape[1]) else stored_forward
    o, cache = run(weighting, grouped(q, k.shape[2]), k, v, valid, seeds, start)
    return o.reshape(q.shape), cache


def backward(
    weighting: Weighting, cache: Stored | Chunked, do: jax.Array, start: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """do [N, T, H, D], start as in forward -> (dq, dk, dv), like q, k and v."""
    do_grouped = grouped(do, cache.k.shape[2])
    if isinstance(cache, Chunked):
        dq, dk, dv = chunked_backward(weighting, cache, do_grouped, start)
    else:
        dq, dk, dv = stored_backward(weighting, cache, do_grouped)
    return dq.reshape(do.shape), dk, dv


def grouped(q: jax.Array, key_heads: int) -> jax.Array:
    """[N, T, H, D] -> [N, T, K, G, D]."""
    return q.reshape(*q.shape[:2], key_heads, -1, q.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None = None,
    seeds: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v with the hand-written derivative, for any JAX code: [N, T, H, D].

    q [N, T, H, D], k and v [N, S, K, D] with K a divisor of H; head h of q reads head h // (H / K). valid [N, S]: true
    for keys that may be seen. seeds [N]: unsigned integers that fix the dropout of each example; None drops nothing.
    start: the first query's position among the keys, an integer array []; None is 0.
    """
    return forward(weighting, q, k, v, valid, seeds, start)[0]


def attention_forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None,
    seeds: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, PyTree]:
    """`forward` as jax.custom_vjp wants it."""
    o, cache = forward(weighting, q, k, v, valid, seeds, start)
    return o, (cache, start)


def attention_backward(weighting: Weighting, residuals: PyTree, do: jax.Array) -> tuple:
    """`backward` as jax.custom_vjp wants it."""
    cache, start = residuals
    return *backward(weighting, cache, do, start), None, None, None


attention.defvjp(attention_forward, attention_backward)
