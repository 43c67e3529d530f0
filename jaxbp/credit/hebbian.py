"""Rules of one layer that need no backward pass: Sanger's Hebbian rule, the perceptron, the delta rule and Adaline.

Sanger       y = W x,  dw = y x^T - lower(y y^T) W          rows of W -> leading eigenvectors, in order (Sanger 1989)
perceptron   w += t x  where t (w x) <= 0,  t = +-1         converges on separable data (Rosenblatt 1958; Novikoff 1962)
delta rule   w += rate (t - w x) x                          least mean squares (Widrow & Hoff 1960): Adaline learns so,
                                                            and answers with the sign of w x
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


def sanger(w: jax.Array, x: jax.Array) -> jax.Array:
    """The change of W [K, I] for inputs x [N, I] of mean zero, averaged over them; to be multiplied by a rate.

    lower(.) keeps the diagonal and what lies below it: output k unlearns what the outputs before it say already.
    """
    y = jnp.einsum("ki,ni->nk", w, x)
    hebbian = jnp.einsum("nk,ni->ki", y, x)
    return (hebbian - jnp.tril(jnp.einsum("nk,nl->kl", y, y)) @ w) / len(x)


class Learnt(NamedTuple):
    """What an online rule has made of its examples."""

    w: jax.Array  # [I]
    mistakes: jax.Array  # int32, updates of the perceptron; examples of the wrong sign for the delta rule


def perceptron(w: jax.Array, x: jax.Array, t: jax.Array) -> Learnt:
    """One pass over x [N, I] with t [N] of +-1, in order. Where it makes no mistake, it has converged.

    On data with t (u x) >= margin for a unit vector u, all passes from w = 0 on make at most (radius / margin)^2
    mistakes together, radius the largest |x| (Novikoff 1962).
    """

    def step(w: jax.Array, example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, t = example
        wrong = t * (w @ x) <= 0
        return w + jnp.where(wrong, t, 0) * x, wrong

    w, wrong = jax.lax.scan(step, w, (x, t))
    return Learnt(w, jnp.sum(wrong))


def delta_rule(w: jax.Array, x: jax.Array, t: jax.Array, rate: float) -> Learnt:
    """One pass of least mean squares over x [N, I] with targets t [N], in order; of Adaline where t is +-1."""

    def step(w: jax.Array, example: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, t = example
        y = w @ x
        return w + rate * (t - y) * x, t * y <= 0

    w, wrong = jax.lax.scan(step, w, (x, t))
    return Learnt(w, jnp.sum(wrong))
