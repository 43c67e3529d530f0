"""Many runs of one program at once: their states side by side, each with a seed, an order and numbers of its own.

The step is that of a run by itself, under `jax.vmap`. The training part is on the device once. A run that stops being
finite stands still, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxbp.config import Config
from jaxbp.core import PyTree
from jaxbp.data import Dataset, Splits
from jaxbp.run import Run
from jaxbp.training.assembly import assembled, training_step
from jaxbp.training.evaluate import evaluation_sums, in_chunks, means, train_sample
from jaxbp.training.feeds import calls, make_feeds, on_device, rounds
from jaxbp.training.fit import batch_specs
from jaxbp.training.numbers import Traced, together
from jaxbp.training.report.curves import Row
from jaxbp.training.report.language import bits_per_byte
from jaxbp.training.step import Feed, State, initial_state, make_program


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run computes, traced but not compiled; its seed is an argument."""

    config: Config
    initial: Traced  # seed -> State
    step: Traced  # (State, batch) -> State
    evaluations: dict[str, Traced]  # name of a part: (params, model state, x, y, mask) -> (loss, hits)

    @classmethod
    def of(cls, config: Config, splits: Splits) -> Plan:
        """The plan of a config for its data. Raises InputError where the two do not fit, and for a mesh."""
        config.run.mesh.check_single("a search")
        model, objective, optimizer, _ = assembled(config, splits)
        initial = lambda seed: initial_state(model, optimizer, objective.spec, seed, config.credit)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        state = jax.eval_shape(initial, seed)
        batch = batch_specs(splits, config.run.batch_size or len(splits.train))
        batch["mask"] = batch.pop("weight")
        sums = evaluation_sums(model, config.loss, splits.classes is not None)
        return cls(
            config,
            Traced.of(initial, seed),
            Traced.of(training_step(config, model, optimizer, objective), state, batch),
            {
                name: Traced.of(sums, state.params, state.model, *in_chunks(part))
                for name, part in evaluated_parts(splits).items()
            },
        )

    def seeded(self, seed: int) -> Plan:
        """The same plan with another seed."""
        return replace(self, config=replace(self.config, run=replace(self.config.run, seed=seed)))

    @cached_property
    def outline(self) -> str:
        """Equal for runs that one program can do at once."""
        traced = [self.initial, self.step, *self.evaluations.values()]
        return "\n".join([repr(replace(self.config.run, seed=0)), *(part.outline for part in traced)])


def evaluated_parts(splits: Splits) -> dict[str, Dataset]:
    """The parts that metrics are measured on, by name."""
    parts = {"train": train_sample(splits) if splits.classes else None, "validation": splits.validation}
    return {name: part for name, part in (parts | {"test": splits.test}).items() if part is not None}


@dataclass
class Outcome:
    """What came of a run.

    rows: one an evaluation, as a run writes them. failed: what was not finite, and where; None for a run that ended
    well. best: the row of the lowest validation loss, of a run with patience.
    """

    run: Run
    rows: list[Row] = field(default_factory=list)
    failed: str | None = None
    best: Row | None = None

    @property
    def row(self) -> Row | None:
        """The metrics that count: those of the best row, without patience of the last; None without any."""
        return self.best or (self.rows[-1] if self.rows else None)

    @property
    def ended(self) -> bool:
        """Whether the run needs no further step."""
        waited = len(self.rows) - 1 - self.rows.index(self.best) if self.best else 0
        return self.failed is not None or (bool(self.rows) and self.run.is_over(self.rows[-1]["train_loss"], waited))

    def add(self, row: Row, finite: bool) -> None:
        """The row of an evaluation; `finite`: whether the state was, after the step of the row."""
        if not finite:
            self.failed = f"not finite at step {row['step']}"
            return
        for name, value in row.items():
            if not np.isfinite(value):
                self.failed = f"{name} not finite at step {row['step']}"
                return
        self.rows.append(row)
        if self.run.patience is not None:
            self.best = min(self.best or row, row, key=lambda row: row["validation_loss"])


def run_many(plans: Sequence[Plan], splits: Splits, bar: tqdm) -> list[Outcome]:
    """The outcomes of plans of one outline, for these data, in one program."""
    run = plans[0].config.run
    rows = run.batch_size or len(splits.train)
    train = on_device(splits.train)
    seeds = [plan.config.run.seed for plan in plans]
    feeds = [make_feeds(train, seed, run.shuffle, rows, run.epochs) for seed in seeds]
    evaluate = Evaluations(plans, splits)
    outcomes = [Outcome(run) for _ in plans]
    initial, numbers = together([plan.initial for plan in plans])
    states = jax.jit(jax.vmap(initial))(numbers, jnp.array(seeds, jnp.uint32))
    program = make_programs(plans)
    for first, last in rounds(run.epochs, run.evaluate_every):
        parts = [feed(first, last) for feed in feeds]
        for start, count in calls(0, parts[0].steps, run.steps_per_call, 0, None):
            called = [part.call(start, run.steps_per_call) for part in parts]
            states = program(states, [feed for feed, _ in called], called[0][1], jnp.int32(count))
            bar.update(count * len(plans))
        finite = jax.device_get(states.finite)
        for outcome, row, good in zip(outcomes, evaluate(states, last), finite, strict=True):
            if not outcome.ended:
                outcome.add(row, bool(good))
        if all(outcome.ended for outcome in outcomes):
            bar.update((run.epochs - last) * parts[0].steps // (last - first) * len(plans))
            break
        states = replace(states, loss_sum=jnp.zeros_like(states.loss_sum), examples=jnp.zeros_like(states.examples))
    return outcomes


def make_programs(plans: Sequence[Plan]) -> Callable[..., State]:
    """(states, feeds, first, count) -> states after at most `count` steps of each run, from its feed's `first` on."""
    step, numbers = together([plan.step for plan in plans])

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def program(
        states: State, leaves: list[PyTree], form: tuple, numbers: list[jax.Array], first: jax.Array, count: jax.Array
    ) -> State:
        tree, axes = form

        def run(state: State, leaves: list[PyTree], numbers: list[jax.Array]) -> State:
            return make_program(partial(step, numbers))(state, jax.tree.unflatten(tree, leaves), first, count)[0]

        return jax.vmap(run, in_axes=(0, list(axes), 0))(states, leaves, numbers)

    def many(states: State, feeds: Sequence[Feed], first: jax.Array, count: jax.Array) -> State:
        leaves, form = side_by_side(feeds)
        return program(states, leaves, form, numbers, first, count)

    return many


def side_by_side(feeds: Sequence[Feed]) -> tuple[list[jax.Array], tuple]:
    """(the leaves of all feeds, (their tree, the axis of the runs in each)): what all share is there once, without."""
    leaves = list(zip(*(jax.tree.leaves(feed) for feed in feeds), strict=True))
    shared = [all(leaf is group[0] for leaf in group) for group in leaves]
    stacked = [group[0] if same else jnp.stack(group) for group, same in zip(leaves, shared, strict=True)]
    return stacked, (jax.tree.structure(feeds[0]), tuple(None if same else 0 for same in shared))


class Evaluations:
    """The metrics of all runs, in one program a part."""

    def __init__(self, plans: Sequence[Plan], splits: Splits) -> None:
        self.loss = plans[0].config.loss
        self.splits = splits
        self.parts = evaluated_parts(splits)
        self.chunks = {name: jax.tree.map(jnp.asarray, in_chunks(part)) for name, part in self.parts.items()}
        self.sums = {name: self._sums([plan.evaluations[name] for plan in plans]) for name in self.parts}

    def _sums(self, traced: Sequence[Traced]) -> Callable[..., tuple[jax.Array, jax.Array]]:
        sums, numbers = together(traced)
        return partial(jax.jit(jax.vmap(sums, in_axes=(0, 0, 0, None, None, None))), numbers)

    def __call__(self, states: State, epoch: int) -> list[Row]:
        """A row of metrics for each run."""
        train = jax.device_get((states.step, states.loss_sum, states.examples))
        rows: list[Row] = [
            {"epoch": epoch, "step": int(step), "train_loss": float(loss / max(examples, 1))}
            for step, loss, examples in zip(*train, strict=True)
        ]
        for name, part in self.parts.items():
            sums = jax.device_get(self.sums[name](states.params, states.model, *self.chunks[name]))
            for row, value, hits in zip(rows, *sums, strict=True):
                metrics = means(float(value), float(hits), part, self.splits.classes is not None)
                if name == "train":
                    row["train_accuracy"] = metrics["accuracy"]
                    continue
                metrics |= bits_per_byte(self.loss, metrics["loss"], self.splits.item_bytes)
                row |= {f"{name}_{key}": figure for key, figure in metrics.items()}
        return rows
