"""What a config asks for, put together: the parts of its run, and its step on one device or on a mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import optax

from jaxbp.backprop import penalized
from jaxbp.config import Config
from jaxbp.core import Batch, Layer
from jaxbp.data import Splits
from jaxbp.devices.placement import Placement
from jaxbp.optim import Objective
from jaxbp.training.fit import batch_spec, check_fit
from jaxbp.training.precision import loss_scaled
from jaxbp.training.step import State, accumulated, make_step


class Assembly(NamedTuple):
    """What a run is made of, all of which fits together."""

    model: Layer
    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    steps_per_epoch: int


def assembled(config: Config, splits: Splits, steps: int | None = None) -> Assembly:
    """The parts of a run of `steps` steps; None: of its epochs. Raises InputError where they do not fit."""
    model = config.build_model()
    check_fit(config, model, splits)
    rows = config.run.batch_size or len(splits.train)
    steps_per_epoch = -(-len(splits.train) // rows)
    objective = config.objective(batch_spec(splits, rows))
    optimizer = config.build_optimizer(steps or config.run.epochs * steps_per_epoch, objective.spec)
    return Assembly(model, objective, optimizer, steps_per_epoch)


def training_step(
    config: Config,
    model: Layer,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    placement: Placement | None = None,
) -> Callable[[State, Batch], State]:
    """(state, batch) -> state. placement: of the run on a mesh; None: on one device.

    On a mesh the devices sum a plain gradient themselves. Whatever else a step asks of its batch, such as the direction
    of a credit rule or the curvature, is written as on one device, and the compiler parts it.
    """
    micro_batches = config.run.micro_batches
    shared = placement if config.is_plain else None
    gradient = config.gradient(shared.model if shared else model)
    gradient = accumulated(gradient, micro_batches) if micro_batches > 1 else gradient
    gradient = shared.gradient(gradient) if shared else gradient
    gradient = loss_scaled(gradient) if config.run.dtype == "float16" else gradient
    gradient = penalized(gradient, objective.penalties)
    augment = placement.augment(config.data.augment) if placement else config.data.augment
    if placement and not config.optimizer.gradient_alone:
        optimizer = placement.whole(optimizer)
    step = make_step(gradient, optimizer, augment, config.credit)
    return placement.settled(step) if placement else step
