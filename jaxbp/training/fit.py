"""Checks on shapes, before anything runs, that data, model, loss, optimizer and batch of a config fit together."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxbp.config import Config, Run
from jaxbp.core import Batch, Context, Layer, PyTree, leaf_layers, output_spec
from jaxbp.credit.config import Backpropagation, carrying
from jaxbp.data import Splits
from jaxbp.data.stream import Stream
from jaxbp.errors import InputError
from jaxbp.layers import Recurrent
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import Loss, MulticlassHinge, SoftmaxCrossEntropy
from jaxbp.machine import device_memory
from jaxbp.training.feeds import AHEAD, epochs_at_once
from jaxbp.training.folder import OVER
from jaxbp.training.run import Trained

ORDER = 24  # bytes of memory that the place of one example in the order takes: a row number, a mask, and their copies


def batch_spec(splits: Splits, rows: int) -> PyTree:
    """Shape and dtype of one batch of inputs."""
    return jax.ShapeDtypeStruct((rows, *splits.train.x.shape[1:]), splits.train.x.dtype)


def batch_specs(splits: Splits, rows: int) -> Batch:
    """Shapes and dtypes of one batch {"x", "y", "weight"}."""
    train = splits.train
    target = jax.ShapeDtypeStruct((rows, *train.y.shape[1:]), train.y.dtype)
    weight = jax.ShapeDtypeStruct((rows, *train.counting().shape[1:]), jnp.float32)
    return {"x": batch_spec(splits, rows), "y": target, "weight": weight}


def check_fit(config: Config, model: Layer, splits: Splits) -> None:
    """Raises InputError where data, model, loss, penalty and batch do not fit together.

    It computes nothing; only an optimizer that asks for certain targets has them read.
    """
    rows = config.run.batch_size or len(splits.train)
    if rows > len(splits.train):
        raise InputError(f"run.batch_size is {rows}, but the training part has {len(splits.train)} examples")
    if rows % config.run.micro_batches:
        raise InputError(f"run.micro_batches={config.run.micro_batches} must divide the batch of {rows} examples")
    if config.run.patience is not None and splits.validation is None:
        raise InputError("run.patience needs a validation part: set data.validation_fraction")
    check_carry(config, model, rows, len(splits.train))
    batch = batch_specs(splits, rows)
    try:
        y = output_spec(model, batch["x"])
    except OverflowError as error:
        raise InputError(f"the model has a size that no array can have ({error})") from error
    check_outputs(config.loss, y.shape[-1], len(splits.classes or ()))
    jax.eval_shape(config.loss.forward, y, batch["y"], batch["weight"])
    params = jax.eval_shape(lambda key: model.init(key, batch["x"]), jax.random.key(0))
    check_size(config.run, params, splits)
    config.optimizer.check(params)
    config.optimizer.check_targets(splits.train.y, splits.train.counting())
    for penalty in config.objective(batch["x"]).penalties:
        penalty.chosen(params)
    check_optimizer(config, model, params, batch)
    check_credit(config, model, params, batch)


def check_size(run: Run, params: PyTree, splits: Splits) -> None:
    """Raises InputError for more steps than can be counted, and where weights or the order of examples fill the memory.

    The loop makes the order of the examples for many epochs at once.
    """
    batch_size = run.batch_size or len(splits.train)
    steps = run.epochs * -(-len(splits.train) // batch_size)
    if steps >= 2**31:
        raise InputError(f"run.epochs={run.epochs} makes {steps:,} steps, and a run has fewer than {2**31:,}")
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    if 2 * weights > (memory := device_memory()):
        raise InputError(
            f"the model has {weights:,} bytes of weights and as many of gradients, and there are {memory:,} bytes of "
            "memory: lower the sizes of its layers"
        )
    if isinstance(splits.train, Stream) and not splits.train.fits:
        check_calls(run, splits, memory)
        return
    epochs = epochs_at_once(len(splits.train), batch_size, run.steps_per_call, min(run.evaluate_every, run.epochs))
    order = ORDER * epochs * len(splits.train)
    if order > memory:
        raise InputError(
            f"run.steps_per_call={run.steps_per_call}: the order of the examples of {epochs:,} epochs takes {order:,} "
            f"bytes, and there are {memory:,} bytes of memory"
        )


def check_calls(run: Run, splits: Splits, memory: int) -> None:
    """Raises InputError where the batches of the calls that are read ahead fill the memory."""
    shapes = batch_specs(splits, run.batch_size or len(splits.train)).values()
    step = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in shapes)
    if (bytes_ahead := AHEAD * run.steps_per_call * step) > memory:
        raise InputError(
            f"run.steps_per_call={run.steps_per_call}: the batches of {AHEAD} calls take {bytes_ahead:,} bytes, and "
            f"there are {memory:,} bytes of memory; {max(memory // (AHEAD * step), 1)} steps would fit"
        )


def check_data(run: Trained, splits: Splits) -> None:
    """Raises InputError where data are not such as a trained model takes. It computes nothing."""
    for name, classes, others in (("data", splits.classes, run.classes), ("run", run.classes, splits.classes)):
        if classes is not None and (strange := sorted(set(classes) - set(others or ()))):
            raise InputError(f"only the {name} have the class '{strange[0]}': data and run must have the same classes")
    batch = batch_specs(splits, 1)

    def outputs(params: PyTree, state: PyTree, x: PyTree) -> PyTree:
        return with_carry(run.model, 0).forward(params, x, Context.evaluation(state))[0]

    y = jax.eval_shape(outputs, run.params, run.state, batch["x"])
    check_outputs(run.config.loss, y.shape[-1], len(splits.classes or ()))
    jax.eval_shape(run.config.loss.forward, y, batch["y"], batch["weight"])


def check_outputs(loss: Loss, outputs: int, classes: int) -> None:
    """Raises InputError where a model's outputs do not tell the classes apart; 0 classes: the targets are numbers."""
    if classes == 1:
        raise InputError("all examples are of one class, and a classifier needs two or more")
    if not classes or outputs == classes:
        return
    if (classes, outputs) != (2, 1):
        raise InputError(
            f"the model has {outputs} outputs, but the data has {classes} classes: set model.outputs={classes}"
        )
    if isinstance(loss, SoftmaxCrossEntropy | MulticlassHinge):  # their labels number the outputs
        raise InputError(
            f"{type(loss).__name__} needs an output for each of the 2 classes, and the model has 1: set "
            "model.outputs=2, or take the loss BinaryCrossEntropy(), which tells two classes apart by one output"
        )


def check_optimizer(config: Config, model: Layer, params: PyTree, batch: Batch) -> None:
    """Raises InputError where an optimizer that looks into the model does not fit it. The step is traced, not run."""
    optimizer = config.optimizer
    measured = config.run.noise_scale_every is not None
    if optimizer.gradient_alone and not (optimizer.is_private or measured):
        return
    own = "optimizer.private" if optimizer.is_private else type(optimizer).__name__
    who = "run.noise_scale_every" if measured else own
    if config.run.dtype != "float32":
        raise InputError(f"{who} takes more than the gradient, which needs run.dtype=float32, got {config.run.dtype}")
    if config.run.micro_batches > 1 and (measured or not optimizer.gradient_alone):
        raise InputError(f"{who} takes the whole batch: run.micro_batches must be 1, got {config.run.micro_batches}")
    if measured and optimizer.is_private:
        raise InputError("run.noise_scale_every must be None where gradients are clipped and noisy: optimizer.private")

    update = first_update(config, model, 1, batch["x"])

    def step(params: PyTree, batch: Batch, key: jax.Array) -> PyTree:
        ctx = Context(key, model.init_state(batch["x"]))
        result = optimizer.gradient(model, config.loss)(params, batch, ctx)
        return update(result.grads, params, result.value, batch, key)

    jax.eval_shape(step, params, batch, jax.random.key(0))


def check_credit(config: Config, model: Layer, params: PyTree, batch: Batch) -> None:
    """Raises InputError where a credit rule is not defined for the model, or the optimizer needs the gradient."""
    optimizer = config.optimizer
    name = type(config.credit).__name__
    if isinstance(config.credit, Backpropagation):
        return
    if optimizer.is_private or not optimizer.gradient_alone:
        what = "optimizer.private" if optimizer.is_private else type(optimizer).__name__
        raise InputError(f"credit={name} goes with an optimizer that takes a direction alone, not with {what}")
    if config.run.noise_scale_every is not None:
        raise InputError(f"credit={name} gives no gradient of the loss: run.noise_scale_every must be None")
    if config.run.dtype != "float32":
        raise InputError(
            f"credit={name} sends deltas of its own, which needs run.dtype=float32, got {config.run.dtype}"
        )
    if config.loss.prepared(model) is not model:
        raise InputError(f"credit={name} needs all logits at once: loss.chunk must be None")

    def step(params: PyTree, batch: Batch, key: jax.Array) -> PyTree:
        kept = config.credit.init_state(key, params, model, batch["x"])
        ctx = carrying(Context(key, model.init_state(batch["x"])), kept)
        return config.gradient(model)(params, batch, ctx).grads

    jax.eval_shape(step, params, batch, jax.random.key(0))


def first_update(config: Config, model: Layer, steps: int, spec: PyTree) -> Callable[..., PyTree]:
    """(gradients, params, value, batch, key) -> what the optimizer of a run of so many steps makes of its first one."""
    rule = config.build_optimizer(steps, spec)

    def update(grads: PyTree, params: PyTree, value: jax.Array, batch: Batch, key: jax.Array) -> PyTree:
        ctx = Context(key, model.init_state(spec))
        return rule.update(grads, rule.init(params), params, value=value, batch=batch, ctx=ctx)

    return update


def check_length(config: Config, model: Layer, splits: Splits, before: int, done: int) -> None:
    """Raises InputError where a run of `before` epochs that has made `done` steps cannot go on to run.epochs.

    It can where the optimizer does not depend on the length: where its program, which holds every number that the
    length puts into it, is the same for both.
    """
    epochs = config.run.epochs
    if epochs == before:
        return
    batch = batch_specs(splits, config.run.batch_size or len(splits.train))
    steps = -(-len(splits.train) // batch["x"].shape[0])
    if done > epochs * steps:
        raise InputError(
            f"run.epochs={epochs} would end at step {epochs * steps}, and the run is already at step {done} ({OVER})"
        )
    params = jax.eval_shape(lambda key: model.init(key, batch["x"]), jax.random.key(0))

    def program(epochs: int) -> str:
        update = jax.jit(first_update(config, model, epochs * steps, batch["x"]))
        value = jax.ShapeDtypeStruct((), jnp.float32)
        return update.lower(params, params, value, batch, jax.random.key(0)).as_text()

    if program(epochs) != program(before):
        raise InputError(
            f"run.epochs was {before} and is {epochs}, but the optimizer's schedule spans the run: the {done} steps so "
            f"far are those of {before} epochs ({OVER}; with a schedule that does not depend on the number of steps, "
            "such as Constant(), a run can go on)"
        )


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
