"""The training loop: one readable loop around one compiled program, resumable to the bit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxbp.backprop import penalized
from jaxbp.config import Config
from jaxbp.core import Layer, PyTree
from jaxbp.data import Dataset, Splits, epoch_order
from jaxbp.machine import header, machine
from jaxbp.train import failure
from jaxbp.train.evaluate import make_evaluation
from jaxbp.train.fit import batch_spec, check_fit
from jaxbp.train.report import curves
from jaxbp.train.report.deltas import draw_deltas, make_delta_norms
from jaxbp.train.run import RunFolder, checkpointed, fingerprint
from jaxbp.train.signals import leave, signals
from jaxbp.train.step import Feed, State, accumulated, initial_state, make_program, make_step, prepared


def reached(point: str) -> None:
    """Called after every call of the compiled program and every evaluation; tests put a kill in its place."""


class NotFinite(FloatingPointError):
    """A loss or gradient was not finite; the weights were not touched, and the run folder can replay the step."""


@dataclass
class Session:
    """One process's part of a run: what is compiled, and what the loop keeps on the host."""

    config: Config
    splits: Splits
    folder: RunFolder
    model: Layer
    program: Callable[..., State]
    evaluate: Callable[[PyTree, PyTree, Dataset], dict[str, float]]
    delta_norms: Callable[..., dict[str, list[float]]] | None  # of recurrent layers, where there are any
    data: str  # fingerprint
    steps: int  # in an epoch
    best: PyTree = None  # weights of the best validation loss so far, where the run stops early
    facts: dict[str, Any] = field(default_factory=lambda: {"best_loss": None, "waited": 0, "finished": False})
    saved: float = field(default_factory=time.monotonic)

    def save(self, state: State) -> None:
        """A checkpoint of this instant."""
        spec = batch_spec(self.splits, self.config.run.batch_size or len(self.splits.train))
        size = self.folder.metrics.stat().st_size
        facts = self.facts | {
            "metrics_bytes": size,
            "data": self.data,
            "machine": machine(),
            "input": [list(spec.shape), str(spec.dtype)],
            "classes": self.splits.classes,
        }
        self.folder.checkpoints.save(int(state.step), {"state": state, "best": self.best}, facts)
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self.saved >= self.config.run.checkpoint_seconds


def train(config: Config, path: Path, fresh: bool = False, splits: Splits | None = None) -> dict[str, float]:
    """Trains in the folder `path`, or goes on with the run there; -> metrics of the last epoch, or of the best.

    Killed at any instant and started again it ends with the same bytes, parameters and metrics. splits: other data than
    the config's, such as a fold. Raises InputError before anything is written, NotFinite where a loss or gradient is
    not, Interrupted after SIGTERM or Ctrl-C.
    """
    splits, model, run = splits or config.data.load(), config.model.build(), config.run
    check_fit(config, model, splits)
    batch = run.batch_size or len(splits.train)
    steps = -(-len(splits.train) // batch)
    objective = config.objective(batch_spec(splits, batch))
    optimizer = config.build_optimizer(run.epochs * steps, objective.spec)
    state = initial_state(model, optimizer, objective.spec, run.seed)
    gradient = config.optimizer.gradient(model, config.loss)
    gradient = accumulated(gradient, run.micro_batches) if run.micro_batches > 1 else gradient
    gradient = penalized(gradient, objective.penalties)
    folder = RunFolder(path)
    session = Session(
        config,
        splits,
        folder,
        model,
        make_program(make_step(gradient, optimizer, config.data.augment)),
        make_evaluation(model, config.loss, splits.classes is not None),
        make_delta_norms(model, config.loss),
        fingerprint(splits),
        steps,
    )
    folder.clear() if fresh else folder.check(config)
    if run.patience is not None:
        session.best = jax.tree.map(jnp.copy, {"params": state.params, "model": state.model})
    if found := folder.resume(checkpointed(state, config), session.data):
        state, session.best = found[0]["state"], found[0]["best"]
        session.facts = {key: found[1][key] for key in session.facts}
    folder.write(config, found is None)
    print(header(state.params), flush=True)
    if found:
        print(f"resumed at step {int(state.step)} of {run.epochs * steps}", flush=True)
    with signals() as caught:
        all_rounds(session, state, caught)
    rows = curves.read_metrics(folder.metrics)
    curves.draw_curves(rows, path / "curves.png")
    if session.delta_norms:
        draw_deltas(rows[-1]["delta_norms"], path / "deltas.png")
    return rows[-1] if run.patience is None else min(rows, key=lambda row: row["validation_loss"])


def all_rounds(session: Session, state: State, caught: list[int]) -> None:
    """Rounds of `evaluate_every` epochs, each followed by an evaluation, from where the state is."""
    run, steps = session.config.run, session.steps
    part = session.splits.train
    x, y, counting = (None if a is None else jnp.asarray(a) for a in (part.x, part.y, part.mask))
    done = int(state.step)
    if done >= run.epochs * steps or session.facts["finished"]:
        return
    with tqdm(total=run.epochs * steps, initial=done, unit="step", disable=None, dynamic_ncols=True) as bar:
        for first, last in rounds(run.epochs, run.evaluate_every):
            if last * steps <= done:
                continue
            started, before = time.perf_counter(), int(state.step)
            feed = Feed(x, y, *epochs_order(session, first, last), counting)
            state = one_round(session, state, feed, first * steps, caught, bar)
            seconds = time.perf_counter() - started
            state = evaluated(session, state, last, (last * steps - before) / seconds, bar)
            reached("evaluated")
            if session.facts["finished"] or last == run.epochs:
                session.save(state)
                return
            if session.due() or caught:
                session.save(state)
            leave(caught, int(state.step))


def one_round(session: Session, state: State, feed: Feed, offset: int, caught: list[int], bar: tqdm) -> State:
    """The steps of the feed, whose first is number `offset` of the run, from where the state is, steps_per_call a call.

    What the bar shows and what is looked at for finiteness is a call old, so that nothing waits for it.
    """
    steps, per_call, seen = len(feed.order), session.config.run.steps_per_call, None
    for first in range(int(state.step) - offset, steps, per_call):
        count, before = min(per_call, steps - first), seen
        state, seen = session.program(state, feed, jnp.int32(first), jnp.int32(count))
        bar.update(count)
        if before is not None:
            loss_sum, examples, finite = jax.device_get(before)
            bar.set_postfix(loss=f"{loss_sum / max(examples, 1):.4f}", refresh=False)
            if not finite:
                break
        if (session.due() or caught) and first + count < steps:
            stop_if_not_finite(session, state, feed, offset)
            session.save(state)
            leave(caught, int(state.step))
        reached("call")
    stop_if_not_finite(session, state, feed, offset)
    return state


def stop_if_not_finite(session: Session, state: State, feed: Feed, offset: int) -> None:
    """Ends the run at a step whose loss or gradient was not finite: names it, and leaves what replays it."""
    if state.finite:
        return
    batch = feed.batch(state.step - offset)
    inputs, ctx = prepared(state, batch, session.config.data.augment)
    first = failure.diagnose(session.model, session.config.loss, state.params, inputs, ctx)
    failure.write_bundle(session.folder.path, state, batch, first)
    raise NotFinite(
        f"step {int(state.step)}: not finite first in {first}; no weight was touched, and "
        f"scripts/replay.py --run={session.folder.path} replays the step"
    )


def evaluated(session: Session, state: State, epoch: int, speed: float, bar: tqdm) -> State:
    """One row of metrics; keeps the best weights, and says whether the run has waited long enough for better ones."""
    row = {"epoch": epoch, "step": int(state.step), "train_loss": float(state.loss_sum / state.examples)}
    for name in ("validation", "test"):
        if part := getattr(session.splits, name):
            found = session.evaluate(state.params, state.model, part)
            row |= {f"{name}_{key}": value for key, value in found.items()}
    if session.config.run.noise_scale_every:
        measured = state.optimizer[0]
        if measured.noise.variance:  # else nothing was measured since the last evaluation
            row["noise_scale"] = float(measured.noise.scale)
        state = replace(state, optimizer=(measured.cleared(), *state.optimizer[1:]))
    if session.delta_norms:
        row["delta_norms"] = session.delta_norms(state.params, state.model, first_batch(session))
    append(session.folder.metrics, row)
    append(session.folder.path / "timing.jsonl", {"epoch": epoch, "steps_per_second": speed})
    bar.write(curves.line(row, session.config.run.epochs, speed))
    patience, facts = session.config.run.patience, session.facts
    if patience is not None:
        if facts["best_loss"] is None or row["validation_loss"] < facts["best_loss"]:
            session.best = jax.tree.map(jnp.copy, {"params": state.params, "model": state.model})
            facts |= {"best_loss": row["validation_loss"], "waited": 0}
        else:
            facts["waited"] += 1
        facts["finished"] = facts["waited"] >= patience
    return replace(state, loss_sum=jnp.zeros_like(state.loss_sum), examples=jnp.zeros_like(state.examples))


def first_batch(session: Session) -> dict[str, np.ndarray]:
    """The first rows of the training part, each item with an equal weight."""
    part = session.splits.train.take(np.arange(session.config.run.batch_size or len(session.splits.train)))
    return {"x": part.x, "y": part.y, "weight": part.counting() / part.counting().sum()}


def append(path: Path, row: dict[str, float]) -> None:
    """One line of JSON at the end of the file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def epochs_order(session: Session, first: int, last: int) -> tuple[jax.Array, jax.Array]:
    """(order, mask) [steps, N] of the epochs from `first` to before `last`."""
    run, examples = session.config.run, len(session.splits.train)
    batch = run.batch_size or examples
    orders = [epoch_order(run.seed, epoch, examples, batch, run.shuffle) for epoch in range(first, last)]
    return tuple(jnp.asarray(np.concatenate(parts)) for parts in zip(*orders, strict=True))


def rounds(epochs: int, every: int) -> Iterator[tuple[int, int]]:
    """(first, last) epochs between evaluations."""
    for first in range(0, epochs, every):
        yield first, min(first + every, epochs)
