"""Levenberg-Marquardt: nonlinear least squares by damped Gauss-Newton steps, for small nets.

With residuals r (one for each example and output, so that the loss is r^T r / 2) and their Jacobian J = dr / dparams,

    step = -(J^T J + damping)^-1 J^T r

    damping -> 0 is Gauss-Newton, damping -> infinity a short step down the gradient
    the loss falls:  the step is taken, and damping is divided by `factor`
    it does not:     damping is multiplied by `factor`, and the step tried again

(Levenberg 1944; Marquardt 1963, J. SIAM 11(2); for networks, Hagan & Menhaj 1994, IEEE Trans. Neural Networks 5(6)).
The rows of J are per-example gradients: one reverse sweep for each output, all examples at once. J = U S V^T is
decomposed once a step. Then every damping costs two small products, and J^T J, whose condition is that of J squared, is
never formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxbp.analysis import curvature
from jaxbp.core import Batch, Context, PyTree, add
from jaxbp.errors import InputError
from jaxbp.losses import SquaredError
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective
from jaxbp.typed import Positive, Range


class Damped(NamedTuple):
    """What is carried from step to step."""

    damping: jax.Array


class Attempt(NamedTuple):
    """The search for a damping whose step lowers the loss."""

    tries: int | jax.Array
    damping: jax.Array  # of the next step
    fell: jax.Array  # whether the last step lowered the loss


def levenberg_marquardt(
    objective: Objective, damping: float = 1e-2, factor: float = 3.0, tries: int = 20
) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, value=, batch=, ctx=): a step that lowers the loss, or zero after `tries` dampings.

    Raises InputError for another loss than SquaredError, for an L1 penalty, and where a layer mixes the examples of a
    batch. Memory: (residuals + parameters) (residuals or parameters, the smaller).
    """
    squared_error(objective)
    if any(penalty.l1 for penalty in objective.penalties):
        raise InputError("Levenberg-Marquardt: penalty.l1 must be 0: an L1 term is not a sum of squares")

    def init(params: PyTree) -> Damped:
        return Damped(jnp.asarray(damping, jax.tree.leaves(params)[0].dtype))

    def update(
        grads: PyTree, state: Damped, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, Damped]:
        j, r = linearized(objective, params, batch, ctx)
        unravel = ravel_pytree(params)[1]
        u, s, vt = jnp.linalg.svd(j, full_matrices=False)
        projected = u.T @ r
        step = lambda damping: unravel(-(s / (s * s + damping) * projected) @ vt)

        def attempt(last: Attempt) -> Attempt:
            fell = objective.value(add(params, step(last.damping)), batch, ctx) < value
            return Attempt(last.tries + 1, jnp.where(fell, last.damping / factor, last.damping * factor), fell)

        going_on = lambda last: (last.tries < tries) & ~last.fell
        last = jax.lax.while_loop(going_on, attempt, Attempt(0, state.damping, jnp.array(False)))
        taken = jax.tree.map(lambda s: jnp.where(last.fell, s, 0), step(last.damping * factor))
        least = jnp.finfo(last.damping.dtype).tiny ** 0.5
        return taken, Damped(jnp.clip(last.damping, least, 1 / least))

    return optax.GradientTransformationExtraArgs(init, update)


def squared_error(objective: Objective) -> SquaredError:
    """The objective's loss. Raises InputError where it is another."""
    if not isinstance(objective.loss, SquaredError):
        raise InputError(f"Levenberg-Marquardt needs the loss SquaredError, got {type(objective.loss).__name__}")
    return objective.loss


def linearized(objective: Objective, params: PyTree, batch: Batch, ctx: Context) -> tuple[jax.Array, jax.Array]:
    """-> (J [R, P], r [R]) with loss r^T r / 2 and gradient J^T r; an L2 penalty adds a row for each parameter.

    Raises InputError for another loss than SquaredError.
    """
    x, ctx = ctx.counted(batch)
    y, cache = objective.model.forward(params, x, ctx)
    outputs = y.shape[-1]
    scale = jnp.sqrt(2 * squared_error(objective).factor(outputs) * batch["weight"])[..., None]
    units = jnp.eye(outputs, dtype=y.dtype).reshape(outputs, *(1,) * (y.ndim - 1), outputs)
    roots = curvature.Roots(units * scale.astype(y.dtype), per_item=True)
    rows = curvature.rows(objective.model, params, cache, roots)
    r = scale * (y - batch["y"])  # [N, *items, O]
    r = jnp.moveaxis(r.reshape(len(r), -1), 0, 1).ravel()  # in the order of the rows: item, output, example
    if not objective.penalties:
        return rows, r
    root = jnp.sqrt(ravel_pytree(objective.curvature(params))[0])
    return jnp.concatenate([rows, jnp.diag(root)]), jnp.concatenate([r, root * ravel_pytree(params)[0]])


@dataclass(frozen=True)
class LevenbergMarquardt(OptimizerConfig):
    """Damped Gauss-Newton steps that always lower the loss; for squared error and small nets.

    Args:
        damping: at the start
        factor: divides the damping after a success, multiplies it after a failure
    """

    damping: Positive = 1e-2
    factor: Annotated[float, Range(1, ends="()")] = 3.0

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return levenberg_marquardt(objective, self.damping, self.factor)
