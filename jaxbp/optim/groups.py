"""What becomes of an optimizer's updates: factors and weight decay by group of parameters, reduction on a plateau."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import optax
import optax.contrib

from jaxbp.errors import InputError
from jaxbp.typed import Count, Fraction, NotNegative, Pattern, Range, Typed


@dataclass(frozen=True)
class Group(Typed):
    """Parameters with a learning rate and a weight decay of their own.

    Args:
        paths: that a parameter's path such as '01_dense/w' matches in full
        learning_rate_factor: on the optimizer's updates; 0 freezes to the bit
        weight_decay: factor * learning_rate * weight_decay * w is taken off in every step
    """

    paths: Pattern
    learning_rate_factor: NotNegative = 1.0
    weight_decay: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay and not self.learning_rate_factor:
            raise InputError(f"Group: weight_decay must be 0 where learning_rate_factor is 0, got {self.weight_decay}")

    def build(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """What becomes of the optimizer's updates in this group."""
        if not self.learning_rate_factor:  # w + -0.0 is w to the bit
            return optax.stateless_with_tree_map(lambda u, _: jnp.full_like(u, -0.0))
        scale, decay = optax.scale(self.learning_rate_factor), lambda step: -self.weight_decay * learning_rate(step)
        return optax.chain(optax.add_decayed_weights(decay), scale) if self.weight_decay else scale


@dataclass(frozen=True)
class Plateau(Typed):
    """Scales all updates down where the training loss, averaged over `steps` steps, has stopped falling.

    Args:
        steps: training steps whose mean loss is one evaluation; those of an epoch, where batches are small
        factor: on the scale at each reduction
        patience: evaluations in a row without improvement before a reduction
        rtol: fraction of the best loss that counts as an improvement
        cooldown: evaluations after a reduction that do not count
        min_scale: where the reductions end
    """

    steps: Count = 1
    factor: Annotated[float, Range(0, 1, "()")] = 0.1
    patience: Count = 10
    rtol: Annotated[float, Range(0, 1, "()")] = 1e-4
    cooldown: Annotated[int, Range(0)] = 0
    min_scale: Fraction = 0.0

    def build(self) -> optax.GradientTransformationExtraArgs:
        """What becomes of the updates; it takes value=loss."""
        return optax.contrib.reduce_on_plateau(
            self.factor,
            self.patience,
            self.rtol,
            cooldown=self.cooldown,
            accumulation_size=self.steps,
            min_scale=self.min_scale,
        )
