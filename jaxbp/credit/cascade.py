"""Cascade correlation: a net that grows unit by unit, each one trained alone (Fahlman & Lebiere 1990).

    v_k = tanh(w_k a_k),  a_k = (x, 1, v_1 ... v_k-1)       a unit sees the inputs and all units before it
    y = W a_K+1                                             linear outputs: W is the least-squares solution

Before unit k is added, the residuals e = y - t are fixed. Each of a pool of candidates climbs the covariance of its
value with them; the highest one stays, and its w_k never changes again:

    S = sum_o |sum_n (v_n - mean v) (e_no - mean e_o)|
    dS/dw = sum_no sign(covariance of o) (e_no - mean e_o) (1 - v_n^2) a_n           the derivative of mean v drops out

No delta passes through another unit. The gradient of S is exact; S itself is a stand-in for the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.core import wide
from jaxbp.errors import InputError
from jaxbp.typed import Count, Typed


class Grown(NamedTuple):
    """A net that has grown."""

    units: jax.Array  # [K, I + 1 + K]: w_k, zero for what unit k does not see
    outputs: jax.Array  # [O, I + 1 + K]
    errors: jax.Array  # [K + 1]: the mean squared error without units, with one, with two, ...

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [N, I] -> y [N, O]."""
        a = widened(x, len(self.units))
        for k, w in enumerate(self.units):
            a = with_unit(a, w, k - len(self.units))
        return a @ self.outputs.T


@dataclass(frozen=True)
class CascadeCorrelation(Typed):
    """How a net grows.

    Args:
        units: hidden units, one after the other
        pool: candidates for each, from random weights; they climb side by side
        steps: of each climb, by Rprop
    """

    units: Count = 10
    pool: Count = 8
    steps: Count = 300

    def grow(self, x: jax.Array, t: jax.Array, key: jax.Array) -> Grown:
        """The net for inputs x [N, I] and targets t [N, O], computed in the dtype of x, float32 at least.

        Raises InputError for other shapes, and for an x that is not of floating-point numbers.
        """
        if jnp.ndim(x) != 2 or jnp.ndim(t) != 2 or len(x) != len(t):
            shapes = f"{list(jnp.shape(x))} and {list(jnp.shape(t))}"
            raise InputError(f"CascadeCorrelation needs inputs [N, I] and targets [N, O], got {shapes}")
        a = widened(x, self.units)
        t = jnp.asarray(t, a.dtype)
        units, errors = [], []
        for k in range(self.units + 1):
            outputs = jnp.linalg.lstsq(a, t)[0].T
            e = a @ outputs.T - t
            errors.append(jnp.mean(e * e))
            if k < self.units:
                units.append(self.candidate(a, e, jax.random.fold_in(key, k)))
                a = with_unit(a, units[-1], k - self.units)
        return Grown(jnp.stack(units), outputs, jnp.stack(errors))

    @partial(jax.jit, static_argnums=0)
    def candidate(self, a: jax.Array, e: jax.Array, key: jax.Array) -> jax.Array:
        """The weights, like a row of a [N, A], of the candidate that comes highest, for residuals e [N, O]."""
        climb = optax.rprop(0.01)
        seen = jnp.any(a != 0, 0)  # of units to come there is nothing to see yet

        def step(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
            w, state = carry
            updates, state = climb.update(-jax.vmap(partial(covariance_gradient, a, e))(w), state)
            return w + updates, state

        w = jnp.where(seen, jax.random.normal(key, (self.pool, a.shape[1]), a.dtype), 0)
        w, _ = jax.lax.fori_loop(0, self.steps, step, (w, climb.init(w)))
        return w[jnp.argmax(jax.vmap(partial(covariance, a, e))(w))]


def covariance(a: jax.Array, e: jax.Array, w: jax.Array) -> jax.Array:
    """S of a candidate w [A] that sees a [N, A], with residuals e [N, O]."""
    v = jnp.tanh(a @ w)
    return jnp.sum(jnp.abs((v - jnp.mean(v)) @ (e - jnp.mean(e, 0))))


def covariance_gradient(a: jax.Array, e: jax.Array, w: jax.Array) -> jax.Array:
    """dS/dw [A]."""
    v = jnp.tanh(a @ w)
    apart = e - jnp.mean(e, 0)
    sign = jnp.sign((v - jnp.mean(v)) @ apart)
    return ((apart @ sign) * (1 - v * v)) @ a


def widened(x: jax.Array, units: int) -> jax.Array:
    """(x, 1, zeros) [N, I + 1 + units]: room for the units."""
    x = wide(x)
    return jnp.concatenate([x, jnp.ones_like(x[:, :1]), jnp.zeros((len(x), units), x.dtype)], 1)


def with_unit(a: jax.Array, w: jax.Array, place: int) -> jax.Array:
    """a [N, A] with the value of the unit w [A] at its place."""
    return a.at[:, place].set(jnp.tanh(a @ w))
