"""Checks on shapes, before anything runs, that data, model, loss, optimizer and batch of a config fit together."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxbp.config import Config
from jaxbp.core import Batch, Context, Layer, PyTree, leaf_layers, output_spec
from jaxbp.data import Splits
from jaxbp.errors import InputError
from jaxbp.layers import Recurrent
from jaxbp.optim import FirstOrder, Objective


def batch_spec(splits: Splits, rows: int) -> PyTree:
    """Shape and dtype of one batch of inputs."""
    return jax.ShapeDtypeStruct((rows, *splits.train.x.shape[1:]), splits.train.x.dtype)


def check_fit(config: Config, model: Layer, splits: Splits) -> None:
    """Raises InputError where data, model, loss, penalty and batch do not fit together. It computes nothing."""
    rows = config.run.batch_size or len(splits.train)
    if rows > len(splits.train):
        raise InputError(f"run.batch_size is {rows}, but the training part has {len(splits.train)} examples")
    if rows % config.run.micro_batches:
        raise InputError(f"run.micro_batches={config.run.micro_batches} must divide the batch of {rows} examples")
    if config.run.patience is not None and splits.validation is None:
        raise InputError("run.patience needs a validation part: set data.validation_fraction")
    check_carry(config, model, rows, len(splits.train))
    spec = batch_spec(splits, rows)
    y = output_spec(model, spec)
    target = jax.ShapeDtypeStruct((rows, *splits.train.y.shape[1:]), splits.train.y.dtype)
    classes = len(splits.classes or ())
    if classes and y.shape[-1] != classes and (classes, y.shape[-1]) != (2, 1):  # one output tells two classes apart
        raise InputError(
            f"the model has {y.shape[-1]} outputs, but the data has {classes} classes: set model.outputs={classes}"
        )
    weight = jax.ShapeDtypeStruct((rows, *splits.train.counting().shape[1:]), jnp.float32)
    jax.eval_shape(config.loss.forward, y, target, weight)
    params = jax.eval_shape(lambda key: model.init(key, spec), jax.random.key(0))
    config.optimizer.check(params)
    objective = config.objective(spec)
    for penalty in objective.penalties:
        penalty.chosen(params)
    check_optimizer(config, objective, params, target, weight)


def check_optimizer(config: Config, objective: Objective, params: PyTree, y: PyTree, weight: PyTree) -> None:
    """Raises InputError where an optimizer that looks into the model does not fit it. The step is traced, not run."""
    optimizer = config.optimizer
    model = objective.model
    measured = config.run.noise_scale_every is not None
    private = isinstance(optimizer, FirstOrder) and optimizer.private is not None
    if not (optimizer.second_order or private or measured):
        return
    if config.run.micro_batches > 1 and (optimizer.second_order or measured):
        who = "run.noise_scale_every" if measured else type(optimizer).__name__
        raise InputError(f"{who} takes the whole batch: run.micro_batches must be 1, got {config.run.micro_batches}")
    if measured and private:
        raise InputError("run.noise_scale_every must be None where gradients are clipped and noisy: optimizer.private")

    def step(params: PyTree, batch: Batch, key: jax.Array) -> PyTree:
        ctx = Context(key, model.init_state(objective.spec))
        result = optimizer.gradient(model, config.loss)(params, batch, ctx)
        rule = config.build_optimizer(1, objective.spec)
        return rule.update(result.grads, rule.init(params), params, value=result.value, batch=batch, ctx=ctx)

    jax.eval_shape(step, params, {"x": objective.spec, "y": y, "weight": weight}, jax.random.key(0))


def check_carry(config: Config, model: Layer, rows: int, examples: int) -> None:
    """Raises InputError where a state is carried to the next batch, but row n there does not continue row n here."""
    if not any(isinstance(leaf, Recurrent) and leaf.carry for leaf in leaf_layers(model)):
        return
    streams = getattr(config.data, "streams", None)
    if config.run.shuffle or config.run.micro_batches > 1 or streams != rows or examples % rows:
        raise InputError(
            f"a carried state needs run.shuffle=False, run.micro_batches=1 and data.streams={rows}, the "
            f"batch size, got {config.run.shuffle}, {config.run.micro_batches} and {streams}"
        )
