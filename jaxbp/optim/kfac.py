"""K-FAC: natural gradient with a Kronecker-factored curvature, for nets of any size.

    Delta = -(F + damping)^-1 gradient       F block by block from its Kronecker factors, averaged over the batches
    step  = alpha Delta + mu last step       alpha, mu minimise the quadratic model with the batch's exact curvature,
                                             m(s) = gradient . s + s . (J^T H J + damping) s / 2
    rho   = (loss(params + step) - loss(params)) / m(step)      > 3/4: damping shrinks,  < 1/4: it grows,
                                                                < 0: the step is not taken

(Martens & Grosse 2015, arXiv 1503.05671, sections 5 to 7.) Targets of F are drawn from the model, which costs one more
reverse sweep; alpha and mu cost two products with J^T H J; eigenvectors are recomputed every few steps. Damping is
added to the product of the factors, exactly, in their eigenvectors' basis. `corrected` replaces the eigenvalues by the
averaged second moments of the gradients there (George et al. 2018, arXiv 1806.03884).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.analysis import curvature, kronecker, per_example
from jaxbp.analysis.curvature import Roots
from jaxbp.analysis.kronecker import Kronecker
from jaxbp.core import Batch, Context, PyTree, add, dot, output_spec, path_name
from jaxbp.errors import InputError
from jaxbp.factors import Sharing
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective, combined
from jaxbp.typed import Count, Fraction, Positive, Range

MAX_FACTOR_ROWS = 8192  # 256 MB in float32


@dataclass(frozen=True)
class KFAC(OptimizerConfig):
    """Natural gradient by Kronecker factors, its length and momentum from the exact quadratic model.

    Args:
        damping: at the start; it adapts
        adaptation: factor applied to the damping when the quadratic model predicted the step well
        least: damping that stays, without which the steps end up fitting single batches
        decay: of the averages over batches
        every: steps between new eigenvectors
        sharing: how positions that share a weight count: as examples, or summed first
        corrected: eigenvalues from second moments of the gradients
    """

    damping: Positive = 1.0
    adaptation: Annotated[float, Range(0, 1, "(]")] = 0.95
    least: Positive = 1e-3
    decay: Fraction = 0.95
    every: Count = 10
    sharing: Sharing = "expand"
    corrected: bool = False

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return kfac(objective, self)


class KFACState(NamedTuple):
    """What is carried from step to step; trees like params."""

    steps: jax.Array  # done so far
    factors: PyTree  # Kronecker each: running averages
    bases: PyTree  # Eigen each
    damping: jax.Array
    last: PyTree  # the last step


def kfac(objective: Objective, settings: KFAC = KFAC()) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, value=, batch=, ctx=); the context needs a key, for targets are drawn.

    Raises InputError for an objective without spec, a loss that is not a negative log-likelihood, a factor of more than
    8192 rows, a context without a key, and where a layer mixes the examples of a batch.
    """
    if objective.spec is None:
        raise InputError("K-FAC: the objective needs the spec of a batch's x: jax.ShapeDtypeStruct(x.shape, x.dtype)")

    def init(params: PyTree) -> KFACState:
        factors = initial_factors(objective, params, settings.sharing)
        return KFACState(
            jnp.zeros((), jnp.int32),
            factors,
            kronecker.eigen(factors),
            jnp.asarray(settings.damping, jnp.float32),
            jax.tree.map(jnp.zeros_like, params),
        )

    def update(
        grads: PyTree, state: KFACState, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, KFACState]:
        cache, roots, fresh = measured(objective, params, batch, ctx, settings.sharing)
        decay = jnp.minimum(1 - 1 / (state.steps + 1), settings.decay)
        factors = averaged(state.factors, fresh, decay)
        due = state.steps % settings.every == 0
        bases = refreshed(state.bases, factors, due)
        if settings.corrected:
            keep = jnp.where(due, 0, decay)  # an average in other coordinates is of no use
            bases = corrected(objective, params, cache, roots, bases, keep)
        delta = natural_direction(bases, grads, state.damping, objective.curvature(params))
        curved = lambda v: combined(1, objective.gauss_newton(params, batch, v, ctx), state.damping, v)
        step, predicted = best_combination(grads, curved, delta, state.last)
        reached = objective.value(add(params, step), batch, ctx)
        damping = adapted(state.damping, (reached - value) / predicted, settings)
        step = jax.tree.map(lambda s: jnp.where(reached < value, s, 0), step)
        return step, KFACState(state.steps + 1, factors, bases, damping, step)

    return optax.GradientTransformationExtraArgs(init, update)


def measured(
    objective: Objective, params: PyTree, batch: Batch, ctx: Context, sharing: Sharing
) -> tuple[PyTree, Roots, PyTree]:
    """-> (cache, drawn roots, Kronecker factors) of this batch."""
    x, ctx = ctx.counted(batch)
    y, cache = objective.model.forward(params, x, ctx)
    roots = curvature.sampled(objective.loss, y, batch, ctx.draw("targets"))
    share = per_example.shares(batch["weight"])
    factors = kronecker.estimated(objective.model, params, cache, roots, share / jnp.sum(share), sharing)
    return cache, roots, factors


def initial_factors(objective: Objective, params: PyTree, sharing: Sharing) -> PyTree:
    """Kronecker factors of zero. Raises InputError where one is too large to be decomposed."""
    y = output_spec(objective.model, objective.spec)
    batch = {"x": objective.spec, "y": y, "weight": jax.ShapeDtypeStruct(y.shape[:-1], jnp.float32)}
    ctx = jax.eval_shape(lambda: Context(jax.random.key(0), objective.model.init_state(objective.spec)))
    of_batch = lambda params, batch, ctx: measured(objective, params, batch, ctx, sharing)[2]
    factors = jax.eval_shape(of_batch, params, batch, ctx)
    is_pair = lambda node: isinstance(node, Kronecker)
    for path, pair in jax.tree_util.tree_leaves_with_path(factors, is_leaf=is_pair):
        rows = max(0 if pair.g_is_diagonal else pair.g.shape[-1], pair.a.shape[-1])
        if rows > MAX_FACTOR_ROWS:
            name = path_name(path)
            raise InputError(f"K-FAC: a factor of '{name}' has {rows:,} rows, at most {MAX_FACTOR_ROWS:,} allowed")
    return jax.tree.map(lambda factor: jnp.zeros(factor.shape, factor.dtype), factors)


def averaged(average: PyTree, fresh: PyTree, decay: jax.Array) -> PyTree:
    """The running average with a fresh value: decay average + (1 - decay) fresh."""
    return combined(decay, average, 1 - decay, fresh)


def refreshed(bases: PyTree, factors: PyTree, due: jax.Array) -> PyTree:
    """The eigenvectors and eigenvalues of the factors where they are due, else the bases as they are."""
    return jax.lax.cond(due, lambda: kronecker.eigen(factors), lambda: bases)


def corrected(
    objective: Objective, params: PyTree, cache: PyTree, roots: Roots, bases: PyTree, decay: jax.Array
) -> PyTree:
    """The bases with running averages of the gradients' second moments for eigenvalues."""
    fresh = kronecker.corrected(objective.model, params, cache, roots, bases)
    with_average = lambda _, basis, new: replace(basis, values=averaged(basis.values, new.values, decay))
    return jax.tree.map(with_average, params, bases, fresh)


def natural_direction(bases: PyTree, grads: PyTree, damping: jax.Array, l2: PyTree) -> PyTree:
    """Delta = -(F + damping + l2)^-1 gradient; l2, like params, is the curvature of the penalties."""
    solved = lambda g, basis, l2: -basis.solve(g, damping + l2.reshape(basis.values.shape))
    return jax.tree.map(solved, grads, bases, l2)


def best_combination(
    grads: PyTree, curved: Callable[[PyTree], PyTree], delta: PyTree, last: PyTree
) -> tuple[PyTree, jax.Array]:
    """-> (s = alpha delta + mu last that minimises m(s) = grads . s + s . curved(s) / 2, m(s))."""
    directions = (delta, last)
    images = [curved(v) for v in directions]
    matrix = jnp.array([[dot(v, image) for image in images] for v in directions])
    slope = jnp.array([dot(grads, v) for v in directions])
    solution = -jnp.linalg.pinv(matrix, rtol=1e-6, hermitian=True) @ slope
    alpha, mu = solution
    return combined(alpha, delta, mu, last), slope @ solution / 2


def adapted(damping: jax.Array, rho: jax.Array, settings: KFAC) -> jax.Array:
    """The damping after a step whose effect was rho times the predicted one."""
    factor = jnp.where(rho > 0.75, settings.adaptation, jnp.where(rho < 0.25, 1 / settings.adaptation, 1))
    return jnp.maximum(damping * factor, settings.least)
