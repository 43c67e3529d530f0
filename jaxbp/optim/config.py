"""The base of every optimizer's config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
import optax

from jaxbp.backprop import Result, value_and_grad
from jaxbp.core import Layer, PyTree
from jaxbp.losses import Loss
from jaxbp.optim.objective import Objective
from jaxbp.typed import Typed

Array = jax.Array | np.ndarray


@dataclass(frozen=True)
class OptimizerConfig(Typed, ABC):
    """The base of every optimizer's config."""

    gradient_alone: ClassVar[bool] = False  # needs nothing but the gradient; else it takes the whole batch at once

    @property
    def is_private(self) -> bool:
        """Whether every example's gradient is clipped, so that gradients of parts of a batch do not add up to its."""
        return False

    @property
    def is_plain(self) -> bool:
        """Whether `gradient` is the gradient as it is, a sum over rows."""
        return not self.is_private

    @abstractmethod
    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        """The optimizer of a run of `steps` steps, with update(grads, state, params, value=loss, batch=, ctx=)."""
        raise NotImplementedError

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        """The function (params, batch, ctx) -> Result whose gradients the optimizer takes."""
        return value_and_grad(model, loss)

    def check(self, params: PyTree) -> None:
        """Raises InputError where the optimizer does not fit parameters (arrays or shapes)."""

    def check_targets(self, target: Array, weight: Array) -> None:
        """Raises InputError where the optimizer does not fit the targets of the items whose weight [...] is not 0."""
