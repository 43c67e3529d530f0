"""What is added to attention's scores, in two forms, and the gradient.

entry by entry   [N, H, T, S]          b_ts                       db_ts
by distance      [N, H, T + S - 1]     b_ts = a_(s - t + T - 1)   da_d = the sum of db along a diagonal

The second is for what depends on the distance s - t of a key from its query alone, and takes memory linear in the
length (ALiBi: Press et al. 2022, arXiv 2108.12409; learned: Raffel et al. 2020, arXiv 1910.10683). An axis of length 1
stands for all of its places: any axis of the first form, N and H of the second.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def is_by_distance(bias: jax.Array) -> bool:
    """Whether the bias is of the second form."""
    return bias.ndim == 3


def entries(bias: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The bias as an array that broadcasts to scores of `shape` [N, K, G, T, S]."""
    b = by_place(bias, *shape[3:]) if is_by_distance(bias) else bias
    heads = (1, 1) if b.shape[1] == 1 else shape[1:3]
    return b.reshape(len(b), *heads, *b.shape[2:])


def entries_transposed(dz: jax.Array, bias: jax.Array) -> jax.Array:
    """The gradient, like the bias, from that of the scores [N, K, G, T, S]; in the dtype of dz."""
    n, k, g, t, s = dz.shape
    db = dz.reshape(n, k * g, t, s)
    shared = tuple(axis for axis, length in enumerate(bias.shape) if length == 1 and (axis < 2 or bias.ndim == 4))
    db = jnp.sum(db, shared, keepdims=True)
    return diagonal_sums(db) if is_by_distance(bias) else db


def by_place(a: jax.Array, t: int, s: int) -> jax.Array:
    """a [N, H, T + S - 1] -> b [N, H, T, S] with b_ts = a_(s - t + T - 1).

    Of T copies side by side, each with one more entry, rows with one entry less begin one distance earlier each.
    """
    a = jnp.pad(a, ((0, 0), (0, 0), (0, 1)))
    copies = jnp.broadcast_to(a[:, :, None], (*a.shape[:2], t, t + s)).reshape(*a.shape[:2], -1)
    rows = copies[..., t - 1 : -1].reshape(*a.shape[:2], t, t + s - 1)
    return rows[..., :s]


def diagonal_sums(db: jax.Array) -> jax.Array:
    """The transpose of `by_place`, [N, H, T, S] -> [N, H, T + S - 1]."""
    t, s = db.shape[2:]
    rows = jnp.pad(db, ((0, 0), (0, 0), (0, 0), (0, t - 1))).reshape(*db.shape[:2], -1)
    copies = jnp.pad(rows, ((0, 0), (0, 0), (t - 1, 1))).reshape(*db.shape[:2], t, t + s)
    return jnp.sum(copies, 2)[..., :-1]
