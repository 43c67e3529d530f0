"""Hopfield nets: patterns stored in symmetric weights, and recalled as the minima of an energy (Hopfield 1982, 1984).

    binary   s_i = +-1,            E = -s W s / 2 - b s                         each update of one unit lowers it
    graded   ds/dt = -u + W s + b,  s = tanh(gain u),
             E = -s W s / 2 - b s + sum_i (1 / gain) int_0^s_i artanh            falls along every path

W is symmetric, without a diagonal. Hebb's rule stores P patterns x [P, N] as W = x^T x / N; up to about 0.138 N random
ones are recalled (Amit, Gutfreund & Sompolinsky 1985).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxbp.credit.relax import Relaxer, Settled


def stored(patterns: jax.Array) -> jax.Array:
    """W [N, N] of Hebb's rule for patterns [P, N] of +-1."""
    size = patterns.shape[-1]
    w = jnp.einsum("pi,pj->ij", patterns, patterns) / size
    return w * (1 - jnp.eye(size, dtype=w.dtype))


def energy(w: jax.Array, s: jax.Array, b: jax.Array | float = 0.0) -> jax.Array:
    """[...] of binary states [..., N]."""
    return -jnp.einsum("...i,ij,...j->...", s, w, s) / 2 - jnp.sum(b * s, -1)


def recalled(
    w: jax.Array, s: jax.Array, key: jax.Array, b: jax.Array | float = 0.0, sweeps: int = 10
) -> tuple[jax.Array, jax.Array]:
    """-> (s [N] after so many sweeps, the energy after every update [sweeps * N]).

    A sweep updates every unit once, in an order of its own: s_i = sign(W_i s + b_i), and as it was where that is zero.
    """
    b = jnp.broadcast_to(jnp.asarray(b, s.dtype), s.shape)

    def update(s: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        field = w[i] @ s + b[i]
        s = s.at[i].set(jnp.where(field == 0, s[i], jnp.sign(field)))
        return s, energy(w, s, b)

    orders = jax.vmap(lambda k: jax.random.permutation(k, len(s)))(jax.random.split(key, sweeps))
    return jax.lax.scan(update, s, orders.ravel())


def graded_energy(w: jax.Array, s: jax.Array, gain: float, b: jax.Array | float = 0.0) -> jax.Array:
    """[...] of graded states [..., N] within (-1, 1)."""
    integral = s * jnp.arctanh(s) + jnp.log1p(-s * s) / 2
    return energy(w, s, b) + jnp.sum(integral, -1) / gain


def graded_recall(
    w: jax.Array, s: jax.Array, gain: float, b: jax.Array | float = 0.0, relaxer: Relaxer = Relaxer(rate=0.1)
) -> Settled:
    """The steady state of the graded net from s [N] on. The relaxer moves the potentials u with s = tanh(gain u)."""
    settled = relaxer.settle(lambda u: w @ jnp.tanh(gain * u) + b, jnp.arctanh(s) / gain)
    return settled._replace(state=jnp.tanh(gain * settled.state))
