"""What attention adds to its scores by the distance of a key from its query: fixed slopes, or a learned table.

    alibi     b = -2^(-8 h / H) |s - t| for head h = 1 ... H                       (Press et al. 2022, arXiv 2108.12409)
    buckets   b = table[bucket(s - t), h],   dtable[i] = sum of db over the distances in bucket i   (Raffel et al. 2020)

Half of the buckets hold one distance each, the others ranges that grow in proportion, the last one all from `reach` on.
Without causal half of them are for keys behind the query, and half for keys ahead of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.layers.embedding import OneHotFactors


@dataclass(frozen=True)
class DistanceBias:
    """The settings of Attention that decide the bias; see there."""

    heads: int
    causal: bool
    alibi: bool
    buckets: int
    reach: int

    def __bool__(self) -> bool:
        """Whether there is a bias."""
        return self.alibi or self.buckets > 0

    def values(self, table: jax.Array | None, distances: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """[1, H, M] of distances [M], and of the table [buckets, H] if there is one."""
        bias = jnp.zeros((1, self.heads, len(distances)), dtype)
        if self.alibi:
            slopes = 2 ** (-8 * (1 + jnp.arange(self.heads, dtype=dtype)) / self.heads)
            bias = bias - slopes[None, :, None] * jnp.abs(distances).astype(dtype)[None, None]
        if table is not None:
            bias = bias + table[self.bucket(distances)].astype(dtype).T[None]
        return bias

    def factors(self, distances: jax.Array, dbias: jax.Array) -> OneHotFactors:
        """Of the table, from dbias [N, H, M]."""
        ids = jnp.broadcast_to(self.bucket(distances)[None, :, None], (len(dbias), len(distances), 1))
        return OneHotFactors(ids, jnp.swapaxes(dbias, 1, 2), self.buckets)

    def bucket(self, distances: jax.Array) -> jax.Array:
        """[M]: the row of the table for each distance s - t."""
        count = self.buckets if self.causal else self.buckets // 2
        exact = max(1, count // 2)
        far = jnp.maximum(-distances, 0) if self.causal else jnp.abs(distances)
        ratio = jnp.log(jnp.maximum(far, 1).astype(jnp.float32) / exact) / jnp.log(self.reach / exact)
        wide = jnp.minimum(exact + (ratio * (count - exact)).astype(jnp.int32), count - 1)
        ahead = jnp.where(distances > 0, 0 if self.causal else count, 0)
        return ahead.astype(jnp.int32) + jnp.where(far < exact, far, wide)
