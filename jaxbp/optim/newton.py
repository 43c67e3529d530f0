"""Newton and Gauss-Newton steps by conjugate gradients: no matrix is formed, each product costs two or three gradients.

    (A + damping) step = -gradient,      A the Hessian (Newton) or J^T H J, the generalised Gauss-Newton matrix

solved only as accurately as is worthwhile (Nocedal & Wright 2006, algorithm 7.1): the iteration ends when the residual
is a `tolerance` part of the gradient. It also ends at a direction of negative curvature, which a Hessian can have and
J^T H J cannot, with the step so far. So the step goes downhill in any case. A backtracking line search (optax) then
shortens it until the loss falls enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.core import Batch, Context, PyTree, dot
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective, combined
from jaxbp.typed import Count, NotNegative, Share

HALVINGS = 30  # of the step, at most


class Iterate(NamedTuple):
    """The carry of the conjugate gradients; trees like b."""

    number: int | jax.Array
    x: PyTree
    residual: PyTree  # b - A x
    direction: PyTree
    square: jax.Array  # of the residual's norm
    convex: jax.Array  # whether the last direction had positive curvature


def conjugate_gradient(product: Callable[[PyTree], PyTree], b: PyTree, iterations: int, tolerance: float) -> PyTree:
    """x with A x = b to |b - A x| <= tolerance |b|; the x before a direction without positive curvature, or b itself.

    (Steihaug 1983, SIAM J. Numerical Analysis 20(3), without a trust region.)
    """
    size = dot(b, b)

    def step(last: Iterate) -> Iterate:
        image = product(last.direction)
        curvature = dot(last.direction, image)
        convex = curvature > 0
        length = jnp.where(convex, last.square / jnp.where(convex, curvature, 1), 0)
        residual = combined(1, last.residual, -length, image)
        square = dot(residual, residual)
        x = combined(1, last.x, length, last.direction)
        direction = combined(1, residual, square / last.square, last.direction)
        return Iterate(last.number + 1, x, residual, direction, square, convex)

    going_on = lambda last: (last.number < iterations) & last.convex & (last.square > tolerance**2 * size)
    first = Iterate(0, jax.tree.map(jnp.zeros_like, b), b, b, size, size > 0)
    x = jax.lax.while_loop(going_on, step, first).x
    moved = dot(x, x) > 0
    return jax.tree.map(lambda x, b: jnp.where(moved, x, b), x, b)


def newton(
    objective: Objective,
    matrix: Literal["hessian", "gauss_newton"],
    damping: float = 0.0,
    iterations: int = 100,
    tolerance: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, value=, batch=, ctx=): the step, as much of it as lowers the loss."""
    matrix_product = {"hessian": objective.hessian, "gauss_newton": objective.gauss_newton}[matrix]

    def direction(grads: PyTree, params: PyTree, batch: Batch, ctx: Context) -> PyTree:
        damped = lambda v: combined(1, matrix_product(params, batch, v, ctx), damping, v)
        return jax.tree.map(jnp.negative, conjugate_gradient(damped, grads, iterations, tolerance))

    return searched(optax.scale_by_backtracking_linesearch(HALVINGS, decrease_factor=0.5), objective, direction)


def searched(
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    direction: Callable[..., PyTree] = lambda grads, params, batch, ctx: grads,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of optax that searches along `direction` and evaluates the objective at other parameters."""

    def update(
        grads: PyTree, state: PyTree, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, PyTree]:
        value_fn = lambda params: objective.value(params, batch, ctx)
        updates = direction(grads, params, batch, ctx)
        return optimizer.update(updates, state, params, value=value, grad=grads, value_fn=value_fn)

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
    """Newton's steps by the Hessian; where its curvature is negative, the step found up to there.

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
        memory_size: the number of past steps that estimate the curvature
    """

    memory_size: Count = 10

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return searched(optax.lbfgs(memory_size=self.memory_size), objective)
