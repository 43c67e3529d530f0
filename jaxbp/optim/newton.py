"""Newton and Gauss-Newton steps by conjugate gradients: no matrix is formed, each product costs two or three gradients.

    (A + damping) step = -gradient,      A the Hessian (Newton) or J^T H J, the generalised Gauss-Newton matrix

solved so far as it pays (Nocedal & Wright 2006, algorithm 7.1): the iteration ends at a residual of a `tolerance` part
of the gradient, and where it meets a direction of negative curvature, which a Hessian has and J^T H J never, with what
it has so far. So the step goes downhill in any case. A backtracking line search (optax) then takes as much of it as
lowers the loss enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxbp.core import Batch, Context, PyTree, dot
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective, combined
from jaxbp.typed import Count, NotNegative, Share

HALVINGS = 30  # of the step, at most


def conjugate_gradient(product: Callable[[PyTree], PyTree], b: PyTree, iterations: int, tolerance: float) -> PyTree:
    """x with A x = b to |b - A x| <= tolerance |b|; the x before a direction without positive curvature, or b itself.

    (Steihaug 1983, SIAM J. Numerical Analysis 20(3), without a trust region.)
    """
    size = dot(b, b)

    def step(carry: tuple) -> tuple:
        i, x, r, direction, square, _ = carry
        turned = product(direction)
        bend = dot(direction, turned)
        positive = bend > 0
        length = jnp.where(positive, square / jnp.where(positive, bend, 1), 0)
        r = combined(1, r, -length, turned)
        after = dot(r, r)
        x = combined(1, x, length, direction)
        return i + 1, x, r, combined(1, r, after / square, direction), after, positive

    zero = jax.tree.map(jnp.zeros_like, b)
    going = lambda carry: (carry[0] < iterations) & carry[-1] & (carry[-2] > tolerance**2 * size)
    _, x, *_ = jax.lax.while_loop(going, step, (0, zero, b, b, size, size > 0))
    started = dot(x, x) > 0
    return jax.tree.map(lambda x, b: jnp.where(started, x, b), x, b)


def newton(
    objective: Objective,
    matrix: Literal["hessian", "gauss_newton"],
    damping: float = 0.0,
    iterations: int = 100,
    tolerance: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, value=, batch=, ctx=): the step, as much of it as lowers the loss."""
    of = getattr(objective, matrix)

    def direction(grads: PyTree, params: PyTree, batch: Batch, ctx: Context) -> PyTree:
        product = lambda v: combined(1, of(params, batch, v, ctx), damping, v)
        return jax.tree.map(jnp.negative, conjugate_gradient(product, grads, iterations, tolerance))

    return searched(optax.scale_by_backtracking_linesearch(HALVINGS, decrease_factor=0.5), objective, direction)


def searched(
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    direction: Callable = lambda grads, params, batch, ctx: grads,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of optax that searches along what `direction` says, with the loss at other parameters at hand."""

    def update(
        grads: PyTree, state: PyTree, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, PyTree]:
        value_fn = lambda params: objective.value(params, batch, ctx)
        along = direction(grads, params, batch, ctx)
        return optimizer.update(along, state, params, value=value, grad=grads, value_fn=value_fn)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


@dataclass(frozen=True)
class GaussNewton(OptimizerConfig):
    """Steps by the generalised Gauss-Newton matrix, whose curvature is never negative.

    Args:
        damping: added to the matrix
        iterations: of the conjugate gradients, at most
        tolerance: of the gradient that may be left unsolved
    """

    damping: NotNegative = 1e-3
    iterations: Count = 100
    tolerance: Share = 0.1

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return newton(objective, "gauss_newton", self.damping, self.iterations, self.tolerance)


@dataclass(frozen=True)
class Newton(GaussNewton):
    """Newton's steps by the Hessian; where it bends down, what was found before.

    Args:
        damping: added to the matrix
    """

    damping: NotNegative = 0.0

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return newton(objective, "hessian", self.damping, self.iterations, self.tolerance)


@dataclass(frozen=True)
class LBFGS(OptimizerConfig):
    """optax's limited-memory BFGS with a zoom line search; for full batches (Liu & Nocedal 1989).

    Args:
        memory_size: steps that the estimate of the curvature is made of
    """

    memory_size: Count = 10

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return searched(optax.lbfgs(memory_size=self.memory_size), objective)
