"""K-FAC: natural gradient with a Kronecker-factored curvature, for nets of any size.

    Delta = -(F + damping)^-1 gradient       F block by block from its Kronecker factors, averaged over the batches
    step  = alpha Delta + mu last step       alpha, mu minimise the quadratic model with the batch's exact curvature,
                                             m(s) = gradient . s + s . (J^T H J + damping) s / 2
    rho   = (loss(params + step) - loss(params)) / m(step)      > 3/4: damping shrinks,  < 1/4: it grows,
                                                                < 0: the step is not taken

(Martens & Grosse 2015, arXiv 1503.05671, sections 5 to 7.) Targets of F are drawn from the model, which costs one more
reverse sweep; alpha and mu cost two products with J^T H J; eigenvectors are taken anew every few steps. Damping is
added to the product of the factors, exactly, in their eigenvectors' basis. `corrected` replaces the eigenvalues by the
averaged second moments of the gradients there (George et al. 2018, arXiv 1806.03884).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.analysis import curvature, kronecker, per_example
from jaxbp.analysis.curvature import Roots
from jaxbp.analysis.kronecker import Eigen, Kronecker
from jaxbp.core import Batch, Context, PyTree, dot, output_spec, path_name
from jaxbp.errors import InputError
from jaxbp.factors import Sharing
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective, combined
from jaxbp.typed import Count, Fraction, Positive, Range

LARGEST = 8192  # rows of a factor: 256 MB in float32


class Factored(NamedTuple):
    """What is carried from step to step; trees like params."""

    count: jax.Array
    factors: PyTree  # Kronecker each: running averages
    bases: PyTree  # Eigen each
    damping: jax.Array
    last: PyTree  # the step before


def kfac(
    objective: Objective,
    damping: float = 1.0,
    decay: float = 0.95,
    every: int = 10,
    sharing: Sharing = "expand",
    corrected: bool = False,
    adaptation: float = 0.95,
    least: float = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, value=, batch=, ctx=); objective.spec is the shape of a batch's x.

    decay: of the averages. every: steps between decompositions. adaptation: factor on the damping where the model fits;
    it stays above `least`, without which the steps end up fitting single batches. Raises InputError for a loss that is
    no negative log-likelihood, a factor of more than 8192 rows, and where a layer couples the examples of a batch.
    """

    def measured(params: PyTree, batch: Batch, ctx: Context) -> tuple[PyTree, Roots, PyTree]:
        """-> (cache, drawn roots, Kronecker factors) of this batch."""
        y, cache = objective.model.forward(params, batch["x"], ctx)
        roots = curvature.sampled(objective.loss, y, batch, ctx.draw("targets"))
        share = per_example.shares(batch["weight"])
        found = kronecker.factors(objective.model, params, cache, roots, share / jnp.sum(share), sharing)
        return cache, roots, found

    def init(params: PyTree) -> Factored:
        y = output_spec(objective.model, objective.spec)
        weight = jax.ShapeDtypeStruct(y.shape[:-1], jnp.float32)
        ctx = jax.eval_shape(lambda: Context(jax.random.key(0), objective.model.init_state(objective.spec)))
        found = lambda *given: measured(*given)[2]
        factors = jax.eval_shape(found, params, {"x": objective.spec, "y": y, "weight": weight}, ctx)
        check(factors)
        factors = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), factors)
        return Factored(
            jnp.zeros((), jnp.int32),
            factors,
            kronecker.eigen(factors),
            jnp.asarray(damping, jnp.float32),
            jax.tree.map(jnp.zeros_like, params),
        )

    def update(
        grads: PyTree, state: Factored, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, Factored]:
        cache, roots, found = measured(params, batch, ctx)
        kept = jnp.minimum(1 - 1 / (state.count + 1), decay)
        factors = combined(kept, state.factors, 1 - kept, found)
        due = state.count % every == 0
        bases = jax.lax.cond(due, lambda: kronecker.eigen(factors), lambda: state.bases)
        if corrected:
            now = kronecker.corrected(objective.model, params, cache, roots, bases)
            kept = jnp.where(due, 0, kept)  # moments in other coordinates are of no use
            bases = jax.tree.map(
                lambda old, new: replace(old, values=kept * old.values + (1 - kept) * new.values),
                bases,
                now,
                is_leaf=is_eigen,
            )
        ahead = jax.tree.map(
            lambda basis, g, l2: -basis.solve(g, state.damping + l2.reshape(basis.values.shape)),
            bases,
            grads,
            objective.curvature(params),
            is_leaf=is_eigen,
        )
        step, predicted = best(objective, grads, params, batch, ctx, state.damping, ahead, state.last)
        reached = objective.value(jax.tree.map(jnp.add, params, step), batch, ctx)
        ratio = (reached - value) / predicted
        change = jnp.where(ratio > 0.75, adaptation, jnp.where(ratio < 0.25, 1 / adaptation, 1))
        step = jax.tree.map(lambda s: jnp.where(reached < value, s, 0), step)
        return step, Factored(state.count + 1, factors, bases, jnp.maximum(state.damping * change, least), step)

    return optax.GradientTransformationExtraArgs(init, update)


def best(
    objective: Objective,
    grads: PyTree,
    params: PyTree,
    batch: Batch,
    ctx: Context,
    damping: jax.Array,
    ahead: PyTree,
    last: PyTree,
) -> tuple[PyTree, jax.Array]:
    """-> (alpha ahead + mu last that minimises the quadratic model, its value there)."""
    curved = [combined(1, objective.gauss_newton(params, batch, v, ctx), damping, v) for v in (ahead, last)]
    matrix = jnp.array([[dot(v, c) for c in curved] for v in (ahead, last)])
    slope = jnp.array([dot(grads, ahead), dot(grads, last)])
    alpha, mu = solution = -jnp.linalg.pinv(matrix, rtol=1e-6, hermitian=True) @ slope
    return combined(alpha, ahead, mu, last), slope @ solution / 2


def is_eigen(node: object) -> bool:
    """Where a tree of bases ends."""
    return isinstance(node, Eigen)


def check(factors: PyTree) -> None:
    """Raises InputError where a factor is too large to be decomposed."""
    is_pair = lambda node: isinstance(node, Kronecker)
    for path, pair in jax.tree_util.tree_leaves_with_path(factors, is_leaf=is_pair):
        rows = max(0 if pair.diagonal_rows else pair.rows.shape[-1], pair.columns.shape[-1])
        if rows > LARGEST:
            raise InputError(f"K-FAC: a factor of '{path_name(path)}' has {rows:,} rows, at most {LARGEST:,} allowed")


@dataclass(frozen=True)
class KFAC(OptimizerConfig):
    """Natural gradient by Kronecker factors, its length and momentum from the exact quadratic model.

    Args:
        damping: at the start; it adapts
        adaptation: factor on the damping after a step that the model foretold
        least: damping that stays
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
        return kfac(
            objective, self.damping, self.decay, self.every, self.sharing, self.corrected, self.adaptation, self.least
        )
