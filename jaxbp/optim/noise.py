"""The gradient noise scale while a run goes on: how large a batch would still be of use (McCandlish et al. 2018)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.analysis import per_example
from jaxbp.core import Batch, Context, PyTree
from jaxbp.optim.objective import Objective


class Measured(NamedTuple):
    """Sums over the measurements since it was last set to zero."""

    count: jax.Array  # of steps since the beginning
    noise: per_example.Noise

    def cleared(self) -> Measured:
        """The same count, no measurement."""
        return Measured(self.count, jax.tree.map(jnp.zeros_like, self.noise))


def noise_meter(objective: Objective, every: int) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, batch=, ctx=) leaves the gradient as it is, and measures it every so many steps.

    grads is the mean over the examples with a weight, penalties included; they are taken off again. A batch of less
    than two such examples is not measured. The scale comes out negative where the batches measured are too few to tell
    the gradient from noise. Raises InputError where a layer couples the examples of a batch.
    """

    def init(params: PyTree) -> Measured:
        zero = jnp.zeros((), jnp.float32)
        return Measured(jnp.zeros((), jnp.int32), per_example.Noise(zero, zero))

    def update(
        grads: PyTree, state: Measured, params: PyTree, *, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, Measured]:
        def measure() -> per_example.Noise:
            own = grads
            for penalty in objective.penalties:
                own = jax.tree.map(jnp.subtract, own, penalty.gradient(params))
            norms = per_example.squared_norms(objective.model, objective.loss)(params, batch, ctx)
            counted = jnp.sum(per_example.shares(batch["weight"]) > 0)
            found = per_example.noise(sum(jax.tree.leaves(norms)), own, jnp.maximum(counted, 2))
            return jax.tree.map(lambda total, now: total + jnp.where(counted > 1, now, 0), state.noise, found)

        noise = jax.lax.cond(state.count % every == 0, measure, lambda: state.noise)
        return grads, Measured(state.count + 1, noise)

    return optax.GradientTransformationExtraArgs(init, update)
