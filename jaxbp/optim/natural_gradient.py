"""Natural gradient: the gradient as measured by how far the model's distribution moves, for small nets.

    step = -learning_rate (F + damping)^-1 gradient,     F = E[g g^T], targets drawn from the model  (Amari 1998,
                                                         Neural Computation 10(2); Martens 2020, arXiv 1412.1193)

F = A^T A with a row of A for each example and output: the roots of the loss's curvature sent back through the model,
exact for squared error and cross-entropy. M = (F + damping)^-1 is computed from each batch alone, or it is updated
while F becomes (1 - rate) F + rate A^T A, the adaptive rule of Amari, Park & Fukumizu 2000 (Neural Computation 12(6))
for R rows at once:

    B  = M / (1 - rate) - rate damping (M / (1 - rate))^2                     forgets; keeps M <= 1 / damping
    M' = B - B A^T (1 / rate + A B A^T)^-1 A B                                adds A^T A (Woodbury)

which costs matrix products, and a system of R equations in place of P.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxbp.analysis import curvature
from jaxbp.core import Batch, Context, PyTree
from jaxbp.errors import InputError
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective
from jaxbp.typed import Positive, Share


class Inverse(NamedTuple):
    """What the adaptive rule carries from step to step."""

    inverse: jax.Array  # M [P, P]


def natural_gradient(
    objective: Objective, learning_rate: float = 0.5, damping: float = 1e-2, rate: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, batch=, ctx=). rate: weight of each new batch in the estimate; None: each alone.

    The estimate starts as the identity. Raises InputError for a loss that is not a negative log-likelihood, and where a
    layer mixes the examples of a batch.
    """
    if not objective.loss.is_likelihood:
        raise InputError(
            f"natural gradient: {type(objective.loss).__name__} is not a negative log-likelihood, "
            "allowed are SquaredError, BinaryCrossEntropy and SoftmaxCrossEntropy without z_loss"
        )
    if rate is not None:
        return adaptive(objective, learning_rate, damping, rate)

    def update(
        grads: PyTree, state: tuple, params: PyTree, *, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, tuple]:
        a = fisher_rows(objective, params, batch, ctx)
        g, unravel = ravel_pytree(grads)
        step = jax.scipy.linalg.solve(a.T @ a + damping * jnp.eye(g.size, dtype=g.dtype), g, assume_a="pos")
        return unravel(-learning_rate * step), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def adaptive(
    objective: Objective, learning_rate: float, damping: float, rate: float
) -> optax.GradientTransformationExtraArgs:
    """`natural_gradient` with the adaptive rule."""

    def init(params: PyTree) -> Inverse:
        flat = ravel_pytree(params)[0]
        return Inverse(jnp.eye(flat.size, dtype=flat.dtype))

    def update(
        grads: PyTree, state: Inverse, params: PyTree, *, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, Inverse]:
        inverse = updated(state.inverse, fisher_rows(objective, params, batch, ctx), rate, damping)
        g, unravel = ravel_pytree(grads)
        return unravel(-learning_rate * (inverse @ g)), Inverse(inverse)

    return optax.GradientTransformationExtraArgs(init, update)


def fisher_rows(objective: Objective, params: PyTree, batch: Batch, ctx: Context) -> jax.Array:
    """A [R, P] with A^T A the Fisher matrix of the batch; an L2 penalty adds its own rows."""
    x, ctx = ctx.counted(batch)
    y, cache = objective.model.forward(params, x, ctx)
    a = curvature.rows(objective.model, params, cache, curvature.exact(objective.loss, y, batch))
    if not objective.penalties:
        return a
    return jnp.concatenate([a, jnp.diag(jnp.sqrt(ravel_pytree(objective.curvature(params))[0]))])


def updated(inverse: jax.Array, a: jax.Array, rate: float, damping: float) -> jax.Array:
    """M' from M [P, P] and A [R, P]."""
    b = inverse / (1 - rate)
    b = b - rate * damping * b @ b
    ab = a @ b
    within = jnp.eye(len(a), dtype=a.dtype) / rate + ab @ a.T
    b = b - ab.T @ jax.scipy.linalg.solve(within, ab, assume_a="pos")
    return (b + b.T) / 2


@dataclass(frozen=True)
class NaturalGradient(OptimizerConfig):
    """Steps by the inverse of the batch's own Fisher matrix; for small nets.

    Args:
        learning_rate: part of the step that is taken
        damping: added to the matrix
    """

    learning_rate: Positive = 0.5
    damping: Positive = 1e-2

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return natural_gradient(objective, self.learning_rate, self.damping)


@dataclass(frozen=True)
class AdaptiveNaturalGradient(NaturalGradient):
    """Steps by an estimate of the inverse Fisher matrix that every batch updates.

    Args:
        rate: weight of a batch in the estimate
    """

    rate: Share = 0.1

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return natural_gradient(objective, self.learning_rate, self.damping, self.rate)
