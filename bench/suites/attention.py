"""Suite attention: forward and backward of causal and full attention, 128 to 8192 positions, heads of width 64.

By hand against jax.grad of jax.nn.dot_product_attention. Beside them jax.grad of the plain formula and of a form in
chunks of queries under jax.checkpoint, and PyTorch's scaled_dot_product_attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench.race import Race, Run, compiled
from bench.suites.recurrent import installed_peers
from jaxbp.machine import threads
from jaxbp.ops.scaled_dot_product import backward, forward
from jaxbp.ops.weighting import Weighting

LENGTHS, WIDTH, CHUNK = (128, 256, 512, 1024, 2048, 4096, 8192), 64, 256
Arrays = tuple[jax.Array, ...]


def cases() -> Iterator[Race]:
    for length in LENGTHS:
        for causal in (True, False):
            yield attention(length, causal)


def attention(length: int, causal: bool) -> Race:
    """Output and gradients of the same 1024 positions in examples of `length`, or of one example."""
    shape = (max(1, 1024 // length), length, 4 if length <= 2048 else 2, WIDTH)  # all scores exist in JAX's form
    arrays = tuple(jax.random.normal(key, shape) for key in jax.random.split(jax.random.key(0), 4))
    weighting = Weighting(causal)

    def by_hand(q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array) -> Arrays:
        o, cache = forward(weighting, q, k, v)
        return o, *backward(weighting, cache, do)[:3]

    theirs = lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=causal)
    forms = {"hand": (by_hand, arrays), "autodiff": (pulled(theirs), arrays)}
    forms |= {"plain": (pulled(lambda *qkv: plain(causal, 0, *qkv)), arrays)}
    if length > CHUNK:
        forms |= {"checkpointed chunks": (pulled(lambda *qkv: in_chunks(causal, *qkv)), arrays)}
    peers = installed_peers({"torch": lambda: torch_attention(causal, *map(np.asarray, arrays))})
    case = f"{'causal' if causal else 'full'} T{length} N{shape[0]} H{shape[2]}"
    return compiled(case, forms, peers, repeats=max(2, 8192 // length), peer_repeats=max(2, 4096 // length))


def pulled(f: Callable[..., jax.Array]) -> Callable[..., Arrays]:
    """(q, k, v, do) -> (o, dq, dk, dv) by autodiff."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, do: jax.Array) -> Arrays:
        o, vjp = jax.vjp(f, q, k, v)
        return o, *vjp(do)

    return run


def plain(causal: bool, start: jax.Array | int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The formula, for queries from position `start` on."""
    scores = jnp.einsum("nthd,nshd->nhts", q, k) / WIDTH**0.5
    if causal:
        scores = jnp.where(start + jnp.arange(q.shape[1])[:, None] >= jnp.arange(k.shape[1]), scores, -jnp.inf)
    return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores, -1), v)


def in_chunks(causal: bool, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The formula for a chunk of queries at a time, computed again on the way back."""
    chunks = jnp.moveaxis(q.reshape(len(q), -1, CHUNK, *q.shape[2:]), 1, 0)
    starts = CHUNK * jnp.arange(len(chunks))
    rows = jax.checkpoint(lambda start, q, k, v: plain(causal, start, q, k, v))
    o = jax.lax.map(lambda chunk: rows(*chunk, k, v), (starts, chunks))
    return jnp.moveaxis(o, 0, 1).reshape(q.shape)


def torch_attention(causal: bool, *arrays: np.ndarray) -> Run:
    import torch

    torch.set_num_threads(threads())
    q, k, v, do = (torch.from_numpy(np.ascontiguousarray(a.swapaxes(1, 2))) for a in arrays)
    inputs = [a.requires_grad_() for a in (q, k, v)]

    def run() -> None:
        for a in inputs:
            a.grad = None
        torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal).backward(do)

    return run
