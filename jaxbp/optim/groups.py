"""Changes to an optimizer's updates: factors and weight decay by group of parameters, reduction on a plateau."""

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
        paths: regular expression that matches the whole path of a parameter, such as '01_dense/w'
        learning_rate_factor: on the optimizer's updates; 0 freezes to the bit
        weight_decay: every step subtracts learning_rate_factor * learning_rate * weight_decay * w
    """

    paths: Pattern
    learning_rate_factor: NotNegative = 1.0
    weight_decay: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay and not self.learning_rate_factor:
            raise InputError(f"Group: weight_decay must be 0 where learning_rate_factor is 0, got {self.weight_decay}")

    def build(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """The change to the optimizer's updates in this group."""
        if not self.learning_rate_factor:  # w + -0.0 is w to the bit
            return optax.stateless_with_tree_map(lambda u, _: jnp.full_like(u, -0.0))
        scale = optax.scale(self.learning_rate_factor)
        if not self.weight_decay:
            return scale
        decay = lambda step: -self.weight_decay * learning_rate(step)
        return optax.chain(optax.add_decayed_weights(decay), scale)


@dataclass(frozen=True)
class Plateau(Typed):
    """Scales all updates down where the training loss, averaged over `steps` steps, has stopped falling.

    Args:
        steps: training steps whose mean loss is one evaluation; with small batches, those of an epoch
        factor: on the scale at each reduction
        patience: evaluations in a row without improvement before a reduction
        rtol: fraction of the best loss that counts as an improvement
        cooldown: evaluations after a reduction that do not count
        min_scale: smallest scale
    """

    steps: Count = 1
    factor: Annotated[float, Range(0, 1, "()")] = 0.1
    patience: Count = 10
    rtol: Annotated[float, Range(0, 1, "()")] = 1e-4
    cooldown: Annotated[int, Range(0)] = 0
    min_scale: Fraction = 0.0

    def build(self) -> optax.GradientTransformationExtraArgs:
        """The change to the updates; its update takes value=loss."""
        return optax.contrib.reduce_on_plateau(
            self.factor,
            self.patience,
            self.rtol,
            cooldown=self.cooldown,
            accumulation_size=self.steps,
            min_scale=self.min_scale,
        )
