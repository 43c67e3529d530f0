"""Rules of jax that are right to an accuracy that their source states."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from .references import attention, normalized
from .table import FLOAT32, between, normal, peer, public

ATTENTION = "jax.experimental.pallas.ops.tpu.flash_attention"
SPLASH = "jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel"
INTERPRETED = "the kernel casts to float32 (interpreted here)"
BELOW = np.tri(5, dtype=bool)

peer(
    "jax.experimental.ode",
    "odeint",
    lambda ode: lambda y0, t, rate: ode.odeint(lambda y, t, rate: -rate * y, y0, t, rate),
    between(0.5, 1, 3),
    np.array([0, 0.5, 1.3]),
    between(0.5, 1, 3, seed=1),
    accuracy=1e-6,
    stated="rtol = atol = 1.4e-8 a step, forward and backward",
    reference=lambda y0, t, rate: y0 * jnp.exp(-rate * (t - t[0])[:, None]),
)
peer(
    ATTENTION,
    "flash_attention_reference",
    lambda module: lambda q, k, v, ab: module.mha_reference(q, k, v, ab),
    normal(1, 2, 5, 3),
    normal(1, 2, 7, 3),
    normal(1, 2, 7, 3, seed=1),
    normal(1, 2, 5, 7),
    accuracy=FLOAT32,
    stated="_mha_reference_bwd casts to float32",
    reference=attention,
)
peer(
    SPLASH,
    "splash_attention_reference",
    lambda module: lambda q, k, v: module.attention_reference_custom(BELOW, q, k, v, None).astype(q.dtype),
    normal(5, 3),
    normal(5, 3, seed=1),
    normal(5, 3, seed=2),
    accuracy=FLOAT32,
    stated="it casts to float32, forward and backward",
    reference=lambda q, k, v: attention(q, k, v, jnp.where(BELOW, 0, -1e9)),
)
peer(
    "jax.experimental.pallas.ops.gpu.layer_norm",
    "pallas_layer_norm",
    lambda module: lambda x, weight, bias: module.layer_norm(x, weight, bias, interpret=True),
    normal(1, 2, 5),
    normal(5),
    normal(5, seed=1),
    accuracy=FLOAT32,
    stated=INTERPRETED,
    reference=normalized,
)
peer(
    "jax.experimental.pallas.ops.gpu.rms_norm",
    "pallas_rms_norm",
    lambda module: lambda x, weight, bias: module.rms_norm(x, weight, bias, interpret=True),
    normal(1, 2, 5),
    normal(5),
    normal(5, seed=1),
    accuracy=FLOAT32,
    stated=INTERPRETED,
    reference=lambda *arguments: normalized(*arguments, centre=False),
    suite="slow",
)


@public(
    "jax",
    normal(1, 16, 1, 16),
    normal(1, 16, 1, 16, seed=1),
    normal(1, 16, 1, 16, seed=2),
    accuracy=FLOAT32,
    stated="the kernel takes float32 (interpreted here)",
    reference=lambda q, k, v: attention(*(a.swapaxes(1, 2) for a in (q, k, v))).swapaxes(1, 2),
)
def pallas_attention():
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    blocks = ("block_q", "block_k", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    sizes = BlockSizes(**dict.fromkeys(blocks, 16))
    single = lambda *arrays: [a.astype(np.float32) for a in arrays]
    return lambda q, k, v: mha(*single(q, k, v), None, block_sizes=sizes, interpret=True).astype(q.dtype)
