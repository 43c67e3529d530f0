"""Gradient descent whose rate grows while the loss falls: a step that raises it too far is refused and the rate cut.

    step = momentum last_step - (1 - momentum) rate gradient

    the loss rises by more than tolerance |loss|:  refused; rate *= cut, and the next step has no momentum
    it rises, but less:                            taken
    it falls:                                      taken; rate *= growth

(Vogl et al. 1988, Biological Cybernetics 59; Hagan, Demuth & Beale, Neural Network Design, chapter 12.) The loss after
the step is that of the same batch, so the rule is made for full batches. It costs one more forward pass a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbp.core import Batch, Context, PyTree, add
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective, combined
from jaxbp.typed import Fraction, NotNegative, Positive, Range, Share


class Pace(NamedTuple):
    """What is carried from step to step."""

    rate: jax.Array
    momentum: jax.Array  # of the next step: 0 after a refusal
    last: PyTree  # the last step, 0 where it was refused


@dataclass(frozen=True)
class VariableRate(OptimizerConfig):
    """Gradient descent that finds its rate by the loss: up after a step that lowers it, down after one that is refused.

    Args:
        learning_rate: at the start
        momentum: part of the last step in the next one
        tolerance: a step that raises the loss by more than this part of its size is refused
        cut: factor on the rate after a refusal
        growth: factor on the rate after a step that lowers the loss
    """

    learning_rate: Positive = 0.1
    momentum: Fraction = 0.0
    tolerance: NotNegative = 0.04
    cut: Share = 0.7
    growth: Annotated[float, Range(1)] = 1.05

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        def init(params: PyTree) -> Pace:
            dtype = jax.tree.leaves(params)[0].dtype
            rate, momentum = jnp.asarray(self.learning_rate, dtype), jnp.asarray(self.momentum, dtype)
            return Pace(rate, momentum, jax.tree.map(jnp.zeros_like, params))

        def update(
            grads: PyTree, pace: Pace, params: PyTree, *, value: jax.Array, batch: Batch, ctx: Context, **_: object
        ) -> tuple[PyTree, Pace]:
            step = combined(pace.momentum, pace.last, (pace.momentum - 1) * pace.rate, grads)
            after = objective.value(add(params, step), batch, ctx)
            taken = after <= value + self.tolerance * jnp.abs(value)
            factor = jnp.where(taken, jnp.where(after < value, self.growth, 1), self.cut)
            step = jax.tree.map(lambda s: jnp.where(taken, s, 0), step)
            return step, Pace(pace.rate * factor, jnp.where(taken, self.momentum, 0).astype(pace.rate.dtype), step)

        return optax.GradientTransformationExtraArgs(init, update)
