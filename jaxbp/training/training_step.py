"""The step that a config asks for: gradient, micro-batches, mesh, penalties and optimizer, put together."""

from __future__ import annotations

from collections.abc import Callable

import optax

from jaxbp.backprop import penalized
from jaxbp.config import Config
from jaxbp.core import Batch, Layer
from jaxbp.devices.placement import Placement
from jaxbp.optim import Objective
from jaxbp.training.precision import loss_scaled
from jaxbp.training.step import State, accumulated, make_step


def training_step(
    config: Config,
    model: Layer,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    placement: Placement | None = None,
) -> Callable[[State, Batch], State]:
    """(state, batch) -> state. placement: of the run on a mesh; None: on one device."""
    micro_batches = config.run.micro_batches
    gradient = config.gradient(placement.model if placement else model)
    gradient = accumulated(gradient, micro_batches) if micro_batches > 1 else gradient
    gradient = placement.gradient(gradient) if placement else gradient
    gradient = loss_scaled(gradient) if config.run.dtype == "float16" else gradient
    gradient = penalized(gradient, objective.penalties)
    augment = placement.augment(config.data.augment) if placement else config.data.augment
    step = make_step(gradient, optimizer, augment, config.credit)
    return placement.settled(step) if placement else step
