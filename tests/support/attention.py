"""Attention with a hand-written backward behind options, and with the mistakes that were shipped in such code."""

from functools import cache, partial

import jax
import jax.numpy as jnp

MISTAKES = (
    "no slope of the cap",
    "dropout twice",
    "D of another output",
    "mask after cap",
    "group not summed",
    "layout",
)


def weights(q, k, causal, cap, mask_first=False):
    """(softmax weights [N, G, R, T, S], capped scores / cap) of q [N, T, G, R, D] and k [N, S, G, D]."""
    scores = jnp.einsum("ntgrd,nsgd->ngrts", q, k) / q.shape[-1] ** 0.5
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool)) if causal else True
    if mask_first:
        scores = jnp.where(seen, scores, -jnp.inf)
    bent = jnp.tanh(scores / cap) if cap else None
    scores = scores if bent is None else cap * bent
    if not mask_first:
        scores = jnp.where(seen, scores, -jnp.inf)
    return jax.nn.softmax(scores, -1), bent


def dropped(key, shape, dropout):
    """The factor of each weight: 0, or 1 / (1 - dropout)."""
    return jax.random.bernoulli(key, 1 - dropout, shape) / (1 - dropout) if dropout else 1.0


@cache
def attention(mistake=""):
    """attention(q, k, v, key, causal=False, cap=None, dropout=0.0) -> o [N, T, G, R, D]. mistake: of its backward."""

    @partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
    def attention(q, k, v, key, causal=False, cap=None, dropout=0.0):
        p, _ = weights(q, k, causal, cap)
        return jnp.einsum("ngrts,nsgd->ntgrd", p * dropped(key, p.shape, dropout), v)

    def forward(q, k, v, key, causal, cap, dropout):
        o = attention(q, k, v, key, causal, cap, dropout)
        return o, (q, k, v, key, o)

    def backward(causal, cap, dropout, kept, do):
        q, k, v, key, o = kept
        p, bent = weights(q, k, causal, cap, mask_first=mistake == "mask after cap")
        m = dropped(key, p.shape, dropout)
        if mistake == "D of another output":
            o = jnp.einsum("ngrts,nsgd->ntgrd", p, v)
        dv = jnp.einsum("ngrts,ntgrd->nsgd", p * m, do)
        dp = jnp.einsum("ntgrd,nsgd->ngrts", do, v) * m
        if mistake == "dropout twice":
            p = p * m
        ds = p * (dp - jnp.einsum("ntgrd,ntgrd->ngrt", do, o)[..., None])
        if cap is not None and mistake != "no slope of the cap":
            ds = ds * (1 - bent**2)
        ds = ds / q.shape[-1] ** 0.5
        dq = jnp.einsum("ngrts,nsgd->ntgrd", ds, k)
        if mistake == "layout":
            dq = jnp.einsum("ngrts,nsgd->ngrtd", ds, k).reshape(q.shape)
        if mistake == "group not summed":
            return dq, jnp.einsum("ngts,ntgd->nsgd", ds[:, :, 0], q[:, :, :, 0]), dv, None
        return dq, jnp.einsum("ngrts,ntgrd->nsgd", ds, q), dv, None

    attention.defvjp(forward, backward)
    return attention


def inputs(seed=0):
    """(q, k, v, key): 2 examples, 4 steps, 2 groups of 3 heads, 5 features."""
    keys = jax.random.split(jax.random.key(seed), 3)
    q, k, v = (
        jax.random.normal(key, shape) for key, shape in zip(keys, [(2, 4, 2, 3, 5), *[(2, 4, 2, 5)] * 2], strict=True)
    )
    return q, k, v, jax.random.key(seed + 1)
