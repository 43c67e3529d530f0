"""The training loop: one readable loop around one compiled program."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxbp.backprop import value_and_grad
from jaxbp.config import Config, to_json
from jaxbp.core import Layer, PyTree, output_spec
from jaxbp.data import Splits, epoch_order
from jaxbp.errors import InputError
from jaxbp.losses import Penalty
from jaxbp.train import report
from jaxbp.train.evaluate import make_evaluation
from jaxbp.train.files import load_arrays, save_arrays, write_json
from jaxbp.train.provenance import header, provenance
from jaxbp.train.step import State, initial_state, make_program, make_step


def train(config: Config, folder: Path) -> dict[str, float]:
    """Trains and fills the run folder; -> the last row of metrics.

    The folder gets config.json and provenance.json first, metrics.jsonl row by row (no times: those are in
    timing.jsonl), parameters.npz and curves.png at the end. Raises InputError before anything is written.
    """
    splits = config.data.load()
    model = config.model.build()
    check_fit(config, model, splits)
    run, examples = config.run, len(splits.train)
    batch = run.batch_size or examples
    steps = len(epoch_order(run.seed, 0, examples, batch)[0])
    optimizer = config.optimizer.build(run.epochs * steps)
    spec = batch_spec(splits, batch)
    state = initial_state(model, optimizer, spec, run.seed)
    program = make_program(make_step(value_and_grad(model, config.loss, penalties_of(config)), optimizer))
    evaluate = make_evaluation(model, config.loss, splits.classes is not None)
    x, y = jnp.asarray(splits.train.x), jnp.asarray(splits.train.y)

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_json(config))
    write_json(folder / "provenance.json", provenance())
    print(header(state.params), flush=True)
    rows = []
    with (tqdm(total=run.epochs * steps, unit="step", disable=None, dynamic_ncols=True) as bar,
          (folder / "metrics.jsonl").open("w") as metrics, (folder / "timing.jsonl").open("w") as timing):
        for first, last in rounds(run.epochs, run.evaluate_every):
            started = time.perf_counter()
            orders = [epoch_order(run.seed, epoch, examples, batch, run.shuffle) for epoch in range(first, last)]
            order, mask = (jnp.asarray(np.concatenate(parts)) for parts in zip(*orders, strict=True))
            state = one_round(program, state, (x, y, order, mask), len(order), run.steps_per_call, bar)
            finite = bool(state.finite)  # waits for the round
            seconds = time.perf_counter() - started
            if not finite:
                raise FloatingPointError(f"loss or gradient not finite at step {int(state.step)}; no update was made")
            row = {"epoch": last, "step": int(state.step), "train_loss": float(state.loss_sum / state.examples)}
            for name in ("validation", "test"):
                if part := getattr(splits, name):
                    found = evaluate(state.params, state.model, part)
                    row |= {f"{name}_{key}": value for key, value in found.items()}
            state = replace(state, loss_sum=jnp.zeros_like(state.loss_sum), examples=jnp.zeros_like(state.examples))
            rows.append(row)
            metrics.write(json.dumps(row) + "\n")
            speed = len(order) / seconds
            timing.write(json.dumps({"epoch": last, "seconds": seconds, "steps_per_second": speed}) + "\n")
            bar.write(report.line(row, run.epochs, speed))
            for file in (metrics, timing):
                file.flush()
    save_arrays(folder / "parameters.npz", {"params": state.params, "state": state.model})
    report.draw_curves(rows, folder / "curves.png")
    return rows[-1]


def restore(folder: Path, config: Config, splits: Splits) -> tuple[Layer, PyTree, PyTree]:
    """(model, params, model state) of a finished run. Raises InputError where the folder holds none that fits."""
    model, spec = config.model.build(), batch_spec(splits, 1)
    make = lambda key: {"params": model.init(key, spec), "state": model.init_state(spec)}
    stored = load_arrays(folder / "parameters.npz", jax.eval_shape(make, jax.random.key(0)))
    return model, stored["params"], stored["state"]


def one_round(program, state: State, data: tuple, steps: int, steps_per_call: int, bar: tqdm) -> State:
    """`steps` steps in calls of at most steps_per_call; the bar's loss is a call old, so that nothing waits for it."""
    for first in range(0, steps, steps_per_call):
        count, before = min(steps_per_call, steps - first), (state.loss_sum + 0, state.examples + 0)
        state = program(state, *data, jnp.int32(first), jnp.int32(count))
        bar.update(count)
        if first:
            bar.set_postfix(loss=f"{float(before[0]) / float(before[1]):.4f}", refresh=False)
    return state


def rounds(epochs: int, every: int) -> Iterator[tuple[int, int]]:
    """(first, last) epochs between evaluations."""
    for first in range(0, epochs, every):
        yield first, min(first + every, epochs)


def penalties_of(config: Config) -> list[Penalty]:
    """The config's penalty, where it is one."""
    return [config.penalty] if config.penalty.l1 or config.penalty.l2 else []


def batch_spec(splits: Splits, rows: int) -> PyTree:
    """Shape and dtype of one batch of inputs."""
    return jax.ShapeDtypeStruct((rows, *splits.train.x.shape[1:]), splits.train.x.dtype)


def check_fit(config: Config, model: Layer, splits: Splits) -> None:
    """Raises InputError where data, model, loss, penalty and batch do not fit together; nothing is computed."""
    rows = config.run.batch_size or len(splits.train)
    if rows > len(splits.train):
        raise InputError(f"run.batch_size is {rows}, but the training part has {len(splits.train)} examples")
    spec = batch_spec(splits, rows)
    y = output_spec(model, spec)
    target = jax.ShapeDtypeStruct((rows, *splits.train.y.shape[1:]), splits.train.y.dtype)
    if splits.classes is not None and y.shape[-1] not in (len(splits.classes), 1):
        raise InputError(f"the model has {y.shape[-1]} outputs, but the data has {len(splits.classes)} classes: "
                         f"set model.outputs={len(splits.classes)}")
    jax.eval_shape(config.loss.forward, y, target, jax.ShapeDtypeStruct((rows,), jnp.float32))
    if penalties_of(config):
        config.penalty.chosen(jax.eval_shape(lambda key: model.init(key, spec), jax.random.key(0)))
