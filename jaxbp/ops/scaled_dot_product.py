"""Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762), forward and backward, in two forms of our own.

With queries q_t, keys k_s, values v_s, a soft cap (Gemma 2, arXiv 2408.00118), an additive bias b, a mask (z = -inf)
and dropout m of the weights:

    c_ts = cap tanh(scale q_t . k_s / cap)                      dv_s  = sum_t p_ts m_ts do_t
    z_ts = c_ts + b_ts                                          dp_ts = m_ts do_t . v_s
    p_ts = exp(z_ts - L_t),  L_t = log sum_s exp z_ts           dz_ts = p_ts (dp_ts - D_t),    db = dz
    o_t  = sum_s p_ts m_ts v_s                                  D_t   = sum_s p_ts dp_ts = do_t . o_t
                                                                dc_ts = dz_ts (1 - (c_ts / cap)^2)
                                                                dq_t  = scale sum_s dc_ts k_s
                                                                dk_s  = scale sum_t dc_ts q_t

stored   keeps e_ts = exp(z_ts - max_s z_ts) [N, K, G, T, S] and divides o_t, and do_t on the way back, by their sum:
         no pass over all pairs normalizes. Four products back.
chunked  keeps L and o (Dao et al. 2022, arXiv 2205.14135). Both ways it is one loop over the blocks of queries and keys
         that meet at all. p of one block exists at a time and is made again on the way back: five products, memory
         linear in T.
kernel   JAX's own on GPU (cuDNN), forward and backward; keeps q, k, v and runs the forward again on the way back.

Query heads k, g share the key head k: H = K G (Ainslie et al. 2023, arXiv 2305.13245); the sum over g lies in the
einsum. A query without any key gives zeros and gets no gradient. Softmax is computed in at least float32.
"""

from __future__ import annotations

import operator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.core import PyTree
from jaxbp.errors import InputError
from jaxbp.ops.chunked_attention import Chunked, chunked_backward, chunked_forward
from jaxbp.ops.score_bias import entries_transposed
from jaxbp.ops.weighting import Weighting, positions, product, scale

Gradients = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]  # dq, dk, dv, db


class Stored(NamedTuple):
    """What the stored form keeps, batch first."""

    q: jax.Array  # [N, K, G, T, D]
    k: jax.Array  # [N, K, S, D]
    v: jax.Array
    e: jax.Array  # [N, K, G, T, S]
    total: jax.Array  # [N, K, G, T, 1], 1 for a query without any key
    o: jax.Array  # like q, in at least float32, since D is a difference's part
    c: jax.Array | None  # the capped scores, if there is a cap
    kept: jax.Array | None  # where dropout leaves e


def stored_forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None,
    seeds: jax.Array | None,
    bias: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, Stored]:
    """q [N, K, G, T, D], k and v [N, K, S, D], the rest as in `attention` -> (o like q, cache)."""
    c = weighting.scores(q, k)
    z = weighting.seen(c, bias, valid, positions(q.shape[3], start), positions(k.shape[2]))
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(z, -1, keepdims=True), jnp.finfo(z.dtype).min))
    e = jnp.exp(z - largest)
    total = jnp.sum(e, -1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    kept = weighting.kept(seeds, 0, e.shape)
    o = product("nkgts,nksd->nkgtd", weighting.dropped(e, kept).astype(v.dtype), v) / total
    return o.astype(q.dtype), Stored(q, k, v, e, total, o, None if weighting.soft_cap is None else c, kept)


def stored_backward(weighting: Weighting, cache: Stored, do: jax.Array, bias: jax.Array | None) -> Gradients:
    """do like q -> the gradients."""
    q, k, v, e, total, o, c, kept = cache
    do = do.astype(o.dtype) / total
    mean = jnp.sum(do * o, -1, keepdims=True)
    do = do.astype(v.dtype)
    dv = product("nkgts,nkgtd->nksd", weighting.dropped(e, kept).astype(v.dtype), do)
    dp = weighting.dropped(product("nkgtd,nksd->nkgts", do, v), kept)
    dz = e * (dp - mean)
    dc = weighting.uncapped(dz, c).astype(q.dtype)
    dq = product("nkgts,nksd->nkgtd", dc, k) * scale(q)
    dk = product("nkgts,nkgtd->nksd", dc, q * scale(q))
    db = None if bias is None else entries_transposed(dz, bias).astype(bias.dtype)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), db


class Kernel(NamedTuple):
    """What the kernel's form keeps, batch first."""

    q: jax.Array  # [N, T, H, D]
    k: jax.Array  # [N, S, K, D]
    v: jax.Array
    o: jax.Array  # like q


def forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None = None,
    seeds: jax.Array | None = None,
    bias: jax.Array | None = None,
    start: jax.Array | None = None,
) -> tuple[jax.Array, Stored | Chunked | Kernel]:
    """The arguments of `attention` -> (o [N, T, H, D], cache). Raises InputError for shapes that do not fit."""
    check(q, k, v, valid, bias)
    if weighting.takes_kernel(q, valid, seeds, bias, start):
        o = weighting.kernel(q, k, v)
        return o, Kernel(q, k, v, o)
    run = chunked_forward if weighting.is_chunked(q.shape[1], k.shape[1]) else stored_forward
    k, v = (jnp.swapaxes(a, 1, 2) for a in (k, v))
    o, cache = run(weighting, grouped(q, k.shape[1]), k, v, valid, seeds, bias, start)
    return ungrouped(o), cache


def backward(
    weighting: Weighting,
    cache: Stored | Chunked | Kernel,
    do: jax.Array,
    bias: jax.Array | None = None,
    start: jax.Array | None = None,
) -> Gradients:
    """do [N, T, H, D], bias and start as in forward -> the gradients, like q, k, v and bias."""
    if isinstance(cache, Kernel):
        dq, dk, dv = jax.vjp(weighting.kernel, *cache[:3])[1](do)
        return dq, dk, dv, None
    do = grouped(do, cache.k.shape[1])
    if isinstance(cache, Chunked):
        dq, dk, dv, db = chunked_backward(weighting, cache, do, bias, start)
    else:
        dq, dk, dv, db = stored_backward(weighting, cache, do, bias)
    return ungrouped(dq), jnp.swapaxes(dk, 1, 2), jnp.swapaxes(dv, 1, 2), db


def output(cache: Stored | Chunked | Kernel) -> jax.Array:
    """o [N, T, H, D] of the forward pass that left `cache`."""
    return cache.o if isinstance(cache, Kernel) else ungrouped(cache.o.astype(cache.q.dtype))


def check(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array | None, bias: jax.Array | None) -> None:
    """Raises InputError unless the shapes fit. A slice of a block would be moved to where it does."""
    fits = q.ndim == k.ndim == 4 and v.shape == k.shape and (len(q), q.shape[3]) == (len(k), k.shape[3])
    if fits and (fits := q.shape[2] % k.shape[2] == 0):
        (n, t, h, _), s = q.shape, k.shape[1]
        forms = {3: ((1, n), (1, h), (t + s - 1,)), 4: ((1, n), (1, h), (1, t), (1, s))}
        fits_to = lambda a, axes: len(a.shape) == len(axes) and all(map(operator.contains, axes, a.shape))
        fits = valid is None or fits_to(valid, ((1, n), (s,)))
        fits = fits and (bias is None or fits_to(bias, forms.get(bias.ndim, ())))
    if not fits:
        given = ", ".join("none" if a is None else str(list(a.shape)) for a in (q, k, v, valid, bias))
        raise InputError(
            "attention: q [N, T, H, D], k and v [N, S, K, D], valid [N, S] and bias [N, H, T, S] or [N, H, T + S - 1] "
            f"do not fit: got {given}"
        )


def grouped(q: jax.Array, key_heads: int) -> jax.Array:
    """[N, T, H, D] -> [N, K, G, T, D]."""
    n, t, h, d = q.shape
    return jnp.swapaxes(q, 1, 2).reshape(n, key_heads, h // key_heads, t, d)


def ungrouped(q: jax.Array) -> jax.Array:
    """[N, K, G, T, D] -> [N, T, H, D]."""
    n, k, g, t, d = q.shape
    return jnp.swapaxes(q.reshape(n, k * g, t, d), 1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None = None,
    seeds: jax.Array | None = None,
    bias: jax.Array | None = None,
    start: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(D) + bias) v with the hand-written derivative, for any JAX code: [N, T, H, D].

    q [N, T, H, D], k and v [N, S, K, D] with K a divisor of H; head h of q reads head h // (H / K). valid [N, S]: true
    for keys that may be seen. seeds [N]: unsigned integers that fix the dropout of each example; None drops nothing.
    bias, which gets a gradient: [N, H, T, S], or [N, H, T + S - 1] by distance (jaxbp.ops.score_bias). start: the first
    query's position among the keys, an integer array []; None is 0. Raises InputError for shapes that do not fit.
    """
    return forward(weighting, q, k, v, valid, seeds, bias, start)[0]


def attention_forward(
    weighting: Weighting,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    valid: jax.Array | None,
    seeds: jax.Array | None,
    bias: jax.Array | None,
    start: jax.Array | None,
) -> tuple[jax.Array, PyTree]:
    """`forward` as jax.custom_vjp wants it."""
    o, cache = forward(weighting, q, k, v, valid, seeds, bias, start)
    return o, (cache, bias, start)


def attention_backward(weighting: Weighting, residuals: PyTree, do: jax.Array) -> tuple:
    """`backward` as jax.custom_vjp wants it."""
    cache, bias, start = residuals
    dq, dk, dv, db = backward(weighting, cache, do, bias, start)
    return dq, dk, dv, None, None, db, None


attention.defvjp(attention_forward, attention_backward)
