"""The gradient noise scale, measured during a run: the batch size beyond which a larger one hardly helps.

(McCandlish et al. 2018, arXiv 1812.06162.)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.analysis import per_example
from jaxbp.core import Batch, Context, PyTree
from jaxbp.optim.objective import Objective


class Measured(NamedTuple):
    """Sums over the measurements since the sums were last cleared."""

    steps: jax.Array  # since the beginning
    noise: per_example.Noise

    def cleared(self) -> Measured:
        """The same number of steps, and sums of zero."""
        return Measured(self.steps, jax.tree.map(jnp.zeros_like, self.noise))


def noise_meter(objective: Objective, every: int) -> optax.GradientTransformationExtraArgs:
    """update(grads, state, params, batch=, ctx=) returns the gradient unchanged and measures it every `every` steps.

    grads is the mean over the examples with a weight, penalties included; they are subtracted again. A batch with less
    than two such examples is not measured. The scale comes out negative where there are too few measurements to tell
    the gradient from noise. Raises InputError where a layer mixes the examples of a batch.
    """

    def init(params: PyTree) -> Measured:
        zero = jnp.zeros((), jnp.float32)
        return Measured(jnp.zeros((), jnp.int32), per_example.Noise(zero, zero))

    def update(
        grads: PyTree, state: Measured, params: PyTree, *, batch: Batch, ctx: Context, **_: object
    ) -> tuple[PyTree, Measured]:
        def measure() -> per_example.Noise:
            of_loss = grads
            for penalty in objective.penalties:
                of_loss = jax.tree.map(jnp.subtract, of_loss, penalty.gradient(params))
            norms = per_example.squared_norms(objective.model, objective.loss)(params, batch, ctx)
            counted = jnp.sum(per_example.shares(batch["weight"]) > 0)
            estimate = per_example.noise(jax.tree.reduce(jnp.add, norms), of_loss, jnp.maximum(counted, 2))
            return jax.tree.map(lambda total, now: total + jnp.where(counted > 1, now, 0), state.noise, estimate)

        noise = jax.lax.cond(state.steps % every == 0, measure, lambda: state.noise)
        return grads, Measured(state.steps + 1, noise)

    return optax.GradientTransformationExtraArgs(init, update)
