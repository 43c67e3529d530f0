"""The training loop: one readable loop around one compiled program, resumable to the bit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxbp.config import Config
from jaxbp.core import Layer, PyTree
from jaxbp.credit.alignment import Alignments, make_alignments
from jaxbp.data import Dataset, Splits
from jaxbp.devices.feed import MeshFeed, make_mesh_feeds
from jaxbp.devices.placement import Placement, placed
from jaxbp.devices.processes import ALONE, Team
from jaxbp.devices.report import compiled
from jaxbp.errors import InputError
from jaxbp.files import append_line
from jaxbp.machine import check_devices, machine
from jaxbp.training import failure
from jaxbp.training.assembly import assembled, training_step
from jaxbp.training.ending import draw, last_line
from jaxbp.training.evaluate import Evaluation, make_evaluation, train_sample
from jaxbp.training.feeds import EpochFeed, StreamFeed, calls, make_feeds, rounds, waits_for_data
from jaxbp.training.fit import batch_spec
from jaxbp.training.folder import Records, RunFolder
from jaxbp.training.health import Health, make_looks
from jaxbp.training.profile import Profiler
from jaxbp.training.report import curves
from jaxbp.training.report.curves import Row
from jaxbp.training.report.deltas import DeltaNorms, make_delta_norms
from jaxbp.training.report.language import Pace, bits_per_byte
from jaxbp.training.resumption import following, resumed
from jaxbp.training.run import fingerprint
from jaxbp.training.samples import Sampler, make_sampler
from jaxbp.training.signals import Cause, Interrupted, leave, numbers, say, signals
from jaxbp.training.step import Program, State, Sums, initial_state, is_finite, make_program, prepared
from jaxbp.training.writers import Writers, make_writers

AnyFeed = EpochFeed | StreamFeed | MeshFeed
YOUNG = 60.0  # seconds: the first minute of a process, in which less work may be lost
EARLY = 10.0  # seconds between checkpoints in it


def reached(point: str) -> None:
    """Called after every call of the compiled program and every evaluation. Tests put a kill in its place."""


class NotFinite(FloatingPointError):
    """A loss, gradient, weight or metric was not finite. Nothing that is not finite was kept."""


@dataclass
class Session:
    """One process's part of a run: what is compiled, and what the loop keeps on the host."""

    config: Config
    splits: Splits
    folder: RunFolder
    model: Layer
    program: Program
    evaluate: Evaluation
    delta_norms: DeltaNorms | None  # None without recurrent layers
    data: str  # fingerprint
    steps: int  # in an epoch
    pace: Pace | None  # None where the data are no text
    sampler: Sampler | None  # None where the run takes no samples
    health: Health | None  # None where nobody looks at it
    placement: Placement | None  # None on one device
    team: Team
    alignments: Alignments | None  # None where the credit rule is exact
    profiler: Profiler
    writers: Writers = Writers()
    records: Records = field(init=False)  # what describes the run, once it is written
    best: PyTree = None  # weights of the best validation loss so far, where the run stops early
    facts: dict[str, Any] = field(default_factory=lambda: {"best_loss": None, "waited": 0, "finished": False})
    begun: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    @cached_property
    def train_sample(self) -> Dataset:
        """The training examples whose accuracy is measured."""
        return train_sample(self.splits)

    @property
    def batch_size(self) -> int:
        """Examples in a step."""
        return self.config.run.batch_size or len(self.splits.train)

    def feeds(self) -> Callable[[int, int], AnyFeed]:
        """(first, last) -> the steps of the epochs from `first` to before `last`."""
        run = self.config.run
        order = (self.splits.train, run.seed, run.shuffle, self.batch_size)
        return make_mesh_feeds(*order, self.placement) if self.placement else make_feeds(*order, run.epochs)

    def save(self, state: State, ended: bool = False) -> None:
        """Writes a checkpoint; `ended` says that nothing is done after it."""
        spec = batch_spec(self.splits, self.batch_size)
        facts = self.facts | {
            "at_risk": 0.0 if ended else self.interval(),
            "data": self.data,
            "machine": machine(),
            "input": [list(spec.shape), str(spec.dtype)],
            "classes": self.splits.classes,
        }
        tree = self.on_host({"state": state, "best": self.best})
        if self.team.first:
            self.folder.save(self.records, int(state.step), tree, facts, self.config.run.keep_checkpoints)
        self.saved = time.monotonic()

    def on_host(self, tree: PyTree) -> PyTree:
        """The tree with whole arrays where a mesh splits them; else as it is."""
        return self.placement.fetched(tree) if self.placement else tree

    def interval(self) -> float:
        """Seconds between two checkpoints: fewer in a process's first minute."""
        seconds = self.config.run.checkpoint_seconds
        return min(EARLY, seconds) if time.monotonic() - self.begun < YOUNG else seconds

    def due(self, caught: list[Cause]) -> tuple[bool, list[Cause]]:
        """(whether it is time for a checkpoint, what was caught in any process until now): all decide the same."""
        own = caught[:]  # what is caught from now on counts the next time: the others do not know of it
        votes = self.team.agree([time.monotonic() - self.saved >= self.interval(), numbers(own)])
        causes = own or [number for _, others in votes for number in others]
        return bool(votes[0][0] or causes), causes


def train(
    config: Config, path: str | Path, fresh: bool = False, splits: Splits | None = None, team: Team = ALONE
) -> Row:
    """Trains in the folder `path`, or resumes the run there; -> metrics of the last epoch, or of the best.

    No other process trains there meanwhile: it gets an InputError at once.

    A run that is killed at any instant and started again ends with the same bytes: parameters and metrics. splits: the
    config's data, where they are loaded already. team: the processes that train together; the first one writes. Raises
    InputError before it writes anything, NotFinite for a loss, gradient, weight or metric that is not finite,
    Interrupted after SIGTERM, SIGHUP or Ctrl-C, and OSError for a file that cannot be written, or an output that cannot
    be, once the run is saved.
    """
    if not isinstance(config, Config):
        raise InputError(f"train needs a Config, got {type(config).__name__}; jaxbp.config.load(file) reads one")
    check_devices()
    folder = RunFolder(Path(path))
    with folder.locked() if team.first else nullcontext():
        folder.check_place()  # before anything compiles
        session, state = new_session(config, splits or config.load_data(), folder, team)
        if team.first and fresh:
            folder.start_over()
        elif team.first:
            folder.finish_start_over()
            folder.check(config)
        state = resumed(session, state) if team.first else following(session, state)
        if team.first:
            session.writers = make_writers(config, folder.path, session.records.identity.runs[0], int(state.step))
        try:
            with signals() as caught, closing(session.writers):
                all_rounds(session, state, caught)
        except (Interrupted, NotFinite):
            with suppress(OSError):  # what ended the run counts
                draw(session, curves.read_metrics(folder.metrics))
            raise
        team.agree(None)  # process 0 has written all
        rows = curves.read_metrics(folder.metrics)
        draw(session, rows)
    has_patience = config.run.patience is not None
    kept = min(rows, key=lambda row: row["validation_loss"]) if has_patience else rows[-1]
    if line := last_line(session, rows[-1], kept):
        print(line, flush=True)
    return kept


def new_session(config: Config, splits: Splits, folder: RunFolder, team: Team = ALONE) -> tuple[Session, State]:
    """A session and the state before the first step. Raises InputError where parts of the config do not fit."""
    run = config.run
    model, objective, optimizer, steps = assembled(config, splits)
    placement = placed(config, model, objective.spec, splits.train)
    shardings = placement.state_shardings if placement else None
    state = initial_state(model, optimizer, objective.spec, run.seed, config.credit, shardings)
    state = placement.begun(state) if placement else state
    step = training_step(config, model, optimizer, objective, placement)
    session = Session(
        config,
        splits,
        folder,
        model,
        make_program(step, shardings),
        make_evaluation(model, config.loss, splits.classes is not None, placement),
        make_delta_norms(model, config.loss),
        fingerprint(splits),
        steps,
        None if splits.item_bytes is None else Pace(model, objective.spec),
        make_sampler(config, model, splits, folder.path),
        make_looks(config, model, splits, step, folder, placement),
        placement,
        team,
        None if config.credit.exact else make_alignments(config.credit, model, config.loss),
        Profiler(run.profile_step, folder.path / "profile"),
    )
    if run.patience is not None:
        session.best = jax.tree.map(jnp.copy, state.weights)
    return session, state


def all_rounds(session: Session, state: State, caught: list[Cause]) -> None:
    """Rounds of `evaluate_every` epochs, each followed by an evaluation, from the state's own step on."""
    run = session.config.run
    steps = session.steps
    feeds = session.feeds()
    done = int(state.step)
    evaluated_already = state.examples == 0  # an evaluation sets the sums to zero
    pending = [
        (first, last)
        for first, last in rounds(run.epochs, run.evaluate_every)
        if last * steps > done or (last * steps == done and not evaluated_already)
    ]
    if not pending or session.facts["finished"]:
        return
    if session.placement:
        session.program = compiled(session.program, session.placement, state, feeds(0, 1).call(0, run.steps_per_call))
    with tqdm(
        total=run.epochs * steps,
        initial=done,
        unit="step",
        disable=None if session.team.first else True,
        dynamic_ncols=True,
    ) as bar:
        for first, last in pending:
            start_time = time.perf_counter()
            start_step = int(state.step)
            state = one_round(session, state, feeds(first, last), first * steps, caught, bar)
            seconds = time.perf_counter() - start_time
            speed = (last * steps - start_step) / seconds
            state, line = evaluated(session, state, last, speed)
            with bar.external_write_mode():
                say(line, caught)
            reached("evaluated")
            if session.facts["finished"] or last == run.epochs:
                session.save(state, ended=True)
                return
            due, causes = session.due(caught)
            if due:
                session.save(state, ended=bool(causes))
            leave(causes, int(state.step))


def one_round(session: Session, state: State, feed: AnyFeed, offset: int, caught: list[Cause], bar: tqdm) -> State:
    """The steps of the feed from the state's own step on, steps_per_call a call. The feed begins at the run's `offset`.

    The progress bar and the check for finiteness read the previous call's sums, so the loop never waits for a result.
    """
    steps = feed.steps
    run = session.config.run
    per_call = run.steps_per_call
    sums: Sums | None = None
    profiler = session.profiler
    periods = (run.sample_every, run.health_every)
    for first, count in calls(int(state.step) - offset, steps, per_call, offset, *periods, ends=profiler.ends):
        previous = sums
        if session.health and session.health.due(offset + first):
            session.health.write(state, feed, first, per_call)
        called = feed.call(first, per_call)
        waits = {"waiting for": "data"} if waits_for_data(feed, previous) else {}
        state, sums = profiler.run(offset + first, partial(session.program, state, *called, np.int32(count)))
        bar.update(count)
        if session.sampler and session.sampler.due(offset + first + count):
            whole = session.on_host(state)
            if session.team.first:
                session.sampler.write(whole)
        if previous is not None:
            loss_sum, examples, finite = jax.device_get(previous)
            bar.set_postfix({"loss": curves.as_text(loss_sum / max(examples, 1))} | waits, refresh=False)
            if not finite:
                break
        due, causes = session.due(caught)
        if due and first + count < steps:
            stop_if_not_finite(session, state, feed, offset)
            session.save(state, ended=bool(causes))
            leave(causes, int(state.step))
        reached("call")
    stop_if_not_finite(session, state, feed, offset)
    return state


def stop_if_not_finite(session: Session, state: State, feed: AnyFeed, offset: int) -> None:
    """Raises NotFinite at a step that was not finite; for a loss or gradient after writing what replays it."""
    if state.finite:
        return
    state = session.on_host(state)
    if not is_finite(state.kept):
        first = failure.first_not_finite(state.kept) or "the sum of the weights"
        raise NotFinite(
            f"step {int(state.step) - 1}: after its update {first} is not finite; nothing of it is kept: "
            f"{failure.remedy(session.config)}"
        )
    batch = feed.batch(state.step - offset)
    inputs, ctx = prepared(state, batch, session.config.data.augment)
    first = failure.diagnose(session.model, session.config.loss, state.params, inputs, ctx)
    if session.team.first:
        failure.write_bundle(session.folder.path, state, batch, first)
    raise NotFinite(
        f"step {int(state.step)}: not finite first in {first}; no weight was touched, and "
        f"jaxbp replay --run={session.folder.path} repeats the step"
    )


def evaluated(session: Session, state: State, epoch: int, speed: float) -> tuple[State, str]:
    """Writes a row of metrics, keeps the best weights and decides whether to stop early.

    -> (state with sums cleared, the row as a line). Raises NotFinite, before it writes, where a metric is not finite.
    """
    row: Row = {"epoch": epoch, "step": int(state.step), "train_loss": float(state.loss_sum / state.examples)}
    if session.splits.classes is not None:
        row["train_accuracy"] = session.evaluate(state.params, state.model, session.train_sample)["accuracy"]
    for name in ("validation", "test"):
        if part := getattr(session.splits, name):
            metrics = session.evaluate(state.params, state.model, part)
            metrics |= bits_per_byte(session.config.loss, metrics["loss"], session.splits.item_bytes)
            row |= {f"{name}_{key}": value for key, value in metrics.items()}
    if session.config.run.noise_scale_every:
        measured = state.optimizer[0]
        if measured.noise.variance:  # else nothing was measured since the last evaluation
            row["noise_scale"] = float(measured.noise.scale)
        state = replace(state, optimizer=(measured.cleared(), *state.optimizer[1:]))
    if session.delta_norms:
        first_batch = session.splits.train.batch(slice(session.batch_size))
        weights = session.on_host(state.weights)
        row["delta_norms"] = session.delta_norms(weights["params"], weights["model"], first_batch)
    if session.alignments:
        first_batch = session.splits.train.batch(slice(session.batch_size))
        row["alignment"] = session.alignments(state.params, state.model, state.credit, first_batch, state.key)
    for name, value in row.items():
        if not np.isfinite(jax.tree.leaves(value)).all():
            step = int(state.step)
            raise NotFinite(f"step {step}: {name} is not finite, and no row is kept: {failure.remedy(session.config)}")
    pace = session.pace.figures(speed) if session.pace else {}
    timing = {"epoch": epoch, "steps_per_second": speed} | pace
    if session.team.first:
        append_line(session.folder.metrics, json.dumps(row))
        append_line(session.folder.path / "timing.jsonl", json.dumps(timing))
        session.writers.write(int(state.step), row | timing)
    run = session.config.run
    facts = session.facts
    if run.patience is not None:
        if facts["best_loss"] is None or row["validation_loss"] < facts["best_loss"]:
            session.best = jax.tree.map(jnp.copy, state.weights)
            facts |= {"best_loss": row["validation_loss"], "waited": 0}
        else:
            facts["waited"] += 1
    facts["finished"] = run.is_over(row["train_loss"], facts["waited"])
    cleared = replace(state, loss_sum=jnp.zeros_like(state.loss_sum), examples=jnp.zeros_like(state.examples))
    return cleared, curves.line(row, run.epochs, speed, pace)
