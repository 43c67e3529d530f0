"""Attention in blocks of positions: the chunked form of jaxbp.ops.scaled_dot_product, whose letters these are."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.core import PyTree, wide
from jaxbp.ops.score_bias import entries_transposed, is_by_distance
from jaxbp.ops.weighting import Weighting, positions, product, scale


class Chunked(NamedTuple):
    """What the chunked form keeps, batch first."""

    q: jax.Array  # [N, K, G, T, D]
    k: jax.Array  # [N, K, S, D]
    v: jax.Array
    valid: jax.Array | None  # [N, S]
    seeds: jax.Array | None  # [N]
    o: jax.Array  # like q, in at least float32
    log_total: jax.Array  # L [N, K, G, T, 1]; inf for a query without any key


def chunked_forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None,
    seeds: jax.Array | None,
    bias: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, Chunked]:
    """As `stored_forward`, block by block (Milakov & Gimelshein 2018, arXiv 1805.02867)."""
    blocks = Blocks(weighting, q, k, v, valid, seeds, bias, start)
    dtype = wide(q[:0]).dtype
    rows = (*blocks.q.shape[:-1], 1)
    initial = (jnp.zeros(blocks.q.shape, dtype), jnp.full(rows, jnp.finfo(dtype).min, dtype), jnp.zeros(rows, dtype))

    def step(carry: PyTree, number_and_pair: PyTree) -> tuple[PyTree, None]:
        number, (i, j) = number_and_pair
        o, largest, total = carry
        _, _, v, _, z, kept = blocks.meet(number, i, j)
        before = blocks.part(largest, i)
        after = jax.lax.stop_gradient(jnp.maximum(before, jnp.max(z, -1, keepdims=True)))
        shrunk = jnp.exp(before - after)
        e = jnp.exp(z - after)
        added = product("nkgts,nksd->nkgtd", weighting.dropped(e, kept).astype(v.dtype), v)
        return (
            blocks.put(o, blocks.part(o, i) * shrunk + added, i),
            blocks.put(largest, after, i),
            blocks.put(total, blocks.part(total, i) * shrunk + jnp.sum(e, -1, keepdims=True), i),
        ), None

    (o, largest, total), _ = jax.lax.scan(step, initial, blocks.numbered)
    t = q.shape[3]
    divisor = jnp.where(total == 0, 1, total)
    log_total = jnp.where(total == 0, jnp.inf, largest + jnp.log(divisor))[..., :t, :]
    o = (o / divisor)[..., :t, :]
    return o.astype(q.dtype), Chunked(q, k, v, valid, seeds, o, log_total)


def chunked_backward(
    weighting: Weighting, cache: Chunked, do: jax.Array, bias: jax.Array | None, start: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """do like q -> (dq, dk, dv, db)."""
    q, k, v, valid, seeds, o, log_total = cache
    blocks = Blocks(weighting, q, k, v, valid, seeds, bias, start)
    dtype = wide(q[:0]).dtype
    do_all = blocks.padded(do, -2)
    mean = blocks.padded(jnp.sum(do.astype(o.dtype) * o, -1, keepdims=True), -2)
    log_total = blocks.padded(log_total, -2, jnp.inf)
    initial = tuple(jnp.zeros(a.shape, dtype) for a in (blocks.q, blocks.k, blocks.v))
    initial_bias: PyTree = None if blocks.bias is None else jnp.zeros(blocks.bias.shape, dtype)

    def step(carry: PyTree, number_and_pair: PyTree) -> tuple[PyTree, None]:
        number, (i, j) = number_and_pair
        (dq, dk, dv), db = carry
        q, k, v, c, z, kept = blocks.meet(number, i, j)
        do = blocks.part(do_all, i)
        p = jnp.exp(z - blocks.part(log_total, i))
        dv_block = product("nkgts,nkgtd->nksd", weighting.dropped(p, kept).astype(do.dtype), do)
        dp = weighting.dropped(product("nkgtd,nksd->nkgts", do, v), kept)
        dz = p * (dp - blocks.part(mean, i))
        if db is not None:
            db = blocks.add_bias(db, dz, i, j)
        dc = weighting.uncapped(dz, c).astype(q.dtype)
        dq_block = product("nkgts,nksd->nkgtd", dc, k) * scale(q)
        dk_block = product("nkgts,nkgtd->nksd", dc, q * scale(q))
        return ((blocks.add(dq, dq_block, i), blocks.add(dk, dk_block, j), blocks.add(dv, dv_block, j)), db), None

    ((dq, dk, dv), db), _ = jax.lax.scan(step, (initial, initial_bias), blocks.numbered)
    cut = lambda da, a: da[..., : a.shape[-2], :].astype(a.dtype)
    return cut(dq, q), cut(dk, k), cut(dv, v), None if bias is None else blocks.cut_bias(db, bias)


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
        bias: jax.Array | None,
        start: jax.Array | None,
    ) -> None:
        self.weighting = weighting
        self.queries, self.keys = q.shape[3], k.shape[2]
        self.size = min(weighting.block, max(self.queries, self.keys))
        self.q = self.padded(q, -2)
        self.k = self.padded(k, -2)
        self.v = self.padded(v, -2)
        self.bias = None if bias is None else self.padded_bias(bias)
        if valid is None and self.keys % self.size:
            valid = jnp.ones((1, self.keys), bool)
        self.valid = None if valid is None else self.padded(valid, -1)
        self.seeds = seeds
        self.start = start
        pairs = weighting.blocks(self.queries, self.keys, self.size, moved=start is not None)
        self.numbered = jnp.arange(len(pairs), dtype=jnp.int32), (jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1]))

    def padded(self, a: jax.Array, axis: int, fill: float = 0) -> jax.Array:
        """The array, filled up along the axis to a multiple of `size`."""
        widths = [(0, 0)] * a.ndim
        widths[axis] = (0, -a.shape[axis] % self.size)
        return jnp.pad(a, widths, constant_values=jnp.asarray(fill, a.dtype))

    def part(self, a: jax.Array, i: jax.Array, axis: int = -2) -> jax.Array:
        """Block i of the array along the axis."""
        return jax.lax.dynamic_slice_in_dim(a, i * self.size, self.size, axis)

    def put(self, a: jax.Array, block: jax.Array, i: jax.Array) -> jax.Array:
        """The array [..., T, D] with another block i."""
        return jax.lax.dynamic_update_slice_in_dim(a, block, i * self.size, -2)

    def add(self, a: jax.Array, block: jax.Array, i: jax.Array) -> jax.Array:
        """The array [..., T, D] with something added to block i."""
        return self.put(a, self.part(a, i) + block, i)

    def meet(self, number: jax.Array, i: jax.Array, j: jax.Array) -> tuple:
        """-> (q, k, v, c, z, kept) of queries in block i and keys in block j."""
        q = self.part(self.q, i)
        k = self.part(self.k, j)
        t = positions(self.size, i * self.size if self.start is None else self.start + i * self.size)
        s = positions(self.size, j * self.size)
        valid = None if self.valid is None else self.part(self.valid, j, -1)
        c = self.weighting.scores(q, k)
        z = self.weighting.seen(c, self.bias_part(i, j), valid, t, s)
        return q, k, self.part(self.v, j), c, z, self.weighting.kept(self.seeds, number, c.shape)

    # --- the bias -----------------------------------------------------------------------------------------------------

    def padded_bias(self, bias: jax.Array) -> jax.Array:
        """The bias of the queries and keys that are filled up."""
        if is_by_distance(bias):
            return jnp.pad(bias, ((0, 0), (0, 0), (-self.queries % self.size, -self.keys % self.size)))
        for axis in (2, 3):
            bias = self.padded(bias, axis) if bias.shape[axis] > 1 else bias
        return bias

    def bias_start(self, bias: jax.Array, i: jax.Array, j: jax.Array) -> tuple[list, tuple[int, ...]]:
        """-> (where the part of block i and block j begins, its shape)."""
        zero = jnp.zeros((), jnp.int32)
        if is_by_distance(bias):
            last = self.q.shape[3] // self.size - 1
            return [zero, zero, (last - i + j) * self.size], (*bias.shape[:2], 2 * self.size - 1)
        begins = [n * self.size if a > 1 else zero for n, a in zip((i, j), bias.shape[2:], strict=True)]
        return [zero, zero, *begins], (*bias.shape[:2], *(min(a, self.size) for a in bias.shape[2:]))

    def bias_part(self, i: jax.Array, j: jax.Array) -> jax.Array | None:
        """The bias between block i and block j, in its own form."""
        return None if self.bias is None else jax.lax.dynamic_slice(self.bias, *self.bias_start(self.bias, i, j))

    def add_bias(self, db: jax.Array, dz: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        """The gradient of the bias with that of one block added."""
        start, shape = self.bias_start(db, i, j)
        part = jax.lax.dynamic_slice(db, start, shape)
        return jax.lax.dynamic_update_slice(db, part + entries_transposed(dz, part), start)

    def cut_bias(self, db: jax.Array, bias: jax.Array) -> jax.Array:
        """The gradient without what was filled up, like the bias."""
        before = -self.queries % self.size if is_by_distance(bias) else 0
        begin = [0] * (bias.ndim - 1) + [before]
        return jax.lax.slice(db, begin, [b + n for b, n in zip(begin, bias.shape, strict=True)]).astype(bias.dtype)
