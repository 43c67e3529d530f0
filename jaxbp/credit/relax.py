"""The relaxer: from a start to a steady state s = f(s), with a report of how well it has settled.

damped     s += rate (f(s) - s)                            explicit Euler of ds/dt = f(s) - s
ode        s += rate / 2 (g(s) + g(s + rate g(s)))         Heun's method of it, with g(s) = f(s) - s
anderson   s = sum_i a_i (s_i + rate (f(s_i) - s_i))       a minimizes |sum_i a_i (f(s_i) - s_i)|, sum_i a_i = 1,
                                                           over the last `memory` steps (Anderson 1965)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxbp.core import PyTree
from jaxbp.typed import Count, Positive, Range, Typed


class NotSettled(ArithmeticError):
    """A relaxation that diverges, or has not come to rest in the steps that it was allowed."""


class Settled(NamedTuple):
    """Where a relaxation has come to."""

    state: PyTree
    residual: jax.Array  # largest |f(s) - s|, relative to the largest |s| where that is above 1
    steps: jax.Array  # taken
    rested: jax.Array  # whether the residual is within the tolerance

    def required(self) -> PyTree:
        """The state. Raises NotSettled where it has not come to rest; outside of jit."""
        if not self.rested:
            raise NotSettled(
                f"no steady state after {int(self.steps)} steps: the state still moves by {float(self.residual):.3g}"
            )
        return self.state

    def or_nan(self) -> PyTree:
        """The state, or nan all over where it has not come to rest: then a training step changes no weight."""
        return jax.tree.map(lambda s: jnp.where(self.rested, s, jnp.nan), self.state)


@dataclass(frozen=True)
class Relaxer(Typed):
    """How a steady state is found.

    Args:
        method: damped, ode or anderson
        rate: of the step towards f(s)
        tolerance: residual at which a state counts as steady
        steps: at most
        memory: steps that anderson looks back on
    """

    method: Literal["damped", "ode", "anderson"] = "damped"
    rate: Annotated[float, Range(0, 1, "(]")] = 1.0
    tolerance: Positive = 1e-6
    steps: Count = 500
    memory: Count = 5

    def settle(self, f: Callable[[PyTree], PyTree], start: PyTree) -> Settled:
        """The steady state of f that is reached from `start`, a tree of arrays. It stops early where nan comes up."""
        flat, tree_of = ravel_pytree(start)
        g = lambda s: ravel_pytree(f(tree_of(s)))[0] - s
        Carry = tuple[jax.Array, jax.Array, jax.Array, PyTree]

        def step(carry: Carry) -> Carry:
            s, _, count, memory = carry
            change = g(s)
            residual = _size(change) / jnp.maximum(_size(s), 1)
            if self.method == "anderson":
                s, memory = self._mixed(s, change, count, memory)
            elif self.method == "ode":
                s = s + self.rate / 2 * (change + g(s + self.rate * change))
            else:
                s = s + self.rate * change
            return s, residual, count + 1, memory

        moving = lambda carry: (carry[1] > self.tolerance) & (carry[2] < self.steps) & (carry[1] < jnp.inf)
        past = (jnp.zeros((self.memory, flat.size), flat.dtype),) * 2 if self.method == "anderson" else ()
        first = jnp.asarray(jnp.finfo(flat.dtype).max, flat.dtype)
        s, residual, steps, _ = jax.lax.while_loop(moving, step, (flat, first, jnp.zeros((), jnp.int32), past))
        return Settled(tree_of(s), residual, steps, (residual <= self.tolerance) & jnp.all(jnp.isfinite(s)))

    def _mixed(
        self, s: jax.Array, change: jax.Array, count: jax.Array, past: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The next state of anderson, and the last states and changes with these among them."""
        place = count % self.memory
        states, changes = past[0].at[place].set(s), past[1].at[place].set(change)
        known = jnp.arange(self.memory) <= count
        gram = jnp.where(known[:, None] & known, changes @ changes.T, 0)
        gram = gram / jnp.maximum(jnp.trace(gram), jnp.finfo(s.dtype).tiny)
        ridge = 10 * jnp.finfo(s.dtype).eps  # changes that are nearly parallel leave the gram matrix singular
        weights = jnp.linalg.solve(gram + jnp.diag(jnp.where(known, ridge, 1)), known.astype(s.dtype))
        weights = weights / jnp.sum(weights)
        return weights @ (states + self.rate * changes), (states, changes)


def _size(a: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(a), initial=0)
