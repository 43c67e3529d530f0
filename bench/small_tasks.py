"""Credit rules and searches on small tasks, from many seeds in one program each:

    python -m bench.small_tasks [--task=xor|iris|digits] [--only=NAME,NAME] [--seeds=20] [--json=FILE]

A line of the table is name | figure | evaluations of the loss | processor seconds of all seeds, compilation included.
Each step sees the whole training part. xor: 1,000 steps of Adam for every credit rule, and 30,000 evaluations of the
loss for every search; the share of seeds whose outputs, or probabilities, all end within 0.1 of their targets. iris
and digits: backpropagation beside the searches, 30,000 evaluations each, where a step of backpropagation counts as
three; the error on the test part. Results: docs/credit.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import Context, Layer, credit, optim
from jaxbp.commands import cli, compare_credit
from jaxbp.commands.__main__ import guarded
from jaxbp.config import load
from jaxbp.data import Embedded, Logic
from jaxbp.errors import unknown
from jaxbp.files import write_json
from jaxbp.losses import Loss, SoftmaxCrossEntropy, SquaredError
from jaxbp.machine import provenance
from jaxbp.models import MLP, RNN, FeedbackMLP, ModelConfig
from jaxbp.optim import Adam, Objective
from jaxbp.optim.gradient_free import GradientFree
from jaxbp.training.step import State, initial_state, make_step
from jaxbp.typed import Count, Typed, Words

BUDGET = 30_000  # evaluations of the loss
STEPS = 1000  # of a credit rule on xor
Name = Literal["xor", "iris", "digits"]


@dataclass(frozen=True)
class Task:
    """A net, its loss, and all rows: x, y for training, the last two for the test."""

    model: Layer
    loss: Loss
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def xor(net: str) -> Task:
    """configs/xor.py, or another net for it, with the form of the data and the loss that it needs."""
    config = load(Path(__file__).parent.parent / "configs/xor.py")
    part = Logic("xor").load().train
    x, y, loss = part.x, part.y, config.loss
    model: ModelConfig = config.model
    if net == "steady":
        relaxer = credit.Relaxer(rate=0.3, tolerance=1e-5, steps=100)  # a net that never settles costs all of them
        model, loss = FeedbackMLP(outputs=1, hidden=(4,), feedback=0.1, relaxer=relaxer), SquaredError()
    elif net == "deep":
        model = MLP(1, (4, 4), "tanh", "sigmoid", w_init="glorot_normal")
    elif net == "classes":
        model, loss, y = MLP(outputs=2, hidden=(16,)), SoftmaxCrossEntropy(), y[:, 0].astype(np.int32)
    elif net == "sequence":  # a bit at each step, and the answer after the last
        model, x = RNN(outputs=1, hidden=(4,), cell="simple", output="last"), x[..., None]
    return Task(model.build(), loss, x, y, x, y)


def flowers_or_digits(name: Literal["iris", "digits"]) -> Task:
    """One hidden layer: 16 units of tanh for iris, 32 for digits."""
    splits = Embedded(name, scaling="standard" if name == "iris" else "min_max").load()
    hidden, outputs = (16, 3) if name == "iris" else (32, 10)
    model = MLP(outputs=outputs, hidden=(hidden,), activation="tanh", w_init="glorot_normal").build()
    return Task(model, SoftmaxCrossEntropy(), splits.train.x, splits.train.y, splits.test.x, splits.test.y)


RULES = compare_credit.RULES | {
    "ContrastiveHebbian": credit.ContrastiveHebbian(),
    "DifferenceTargetPropagation": credit.DifferenceTargetPropagation(),
    "ForwardForward": credit.ForwardForward(),
    "ForwardGradient": credit.ForwardGradient(),
    "NoisyEM": credit.NoisyEM(),
    "RealTime": credit.RealTime(),
    "EProp": credit.EProp(),
    "Backpropagation.steady": credit.Backpropagation(),
    "Backpropagation.sequence": credit.Backpropagation(),
}
NETS = {  # for xor, of those that have another net than configs/xor.py
    "ContrastiveHebbian": "steady",
    "EquilibriumPropagation": "steady",
    "Backpropagation.steady": "steady",
    "DifferenceTargetPropagation": "deep",  # one hidden layer has no inverse to learn
    "ForwardForward": "classes",
    "RealTime": "sequence",
    "EProp": "sequence",
    "Backpropagation.sequence": "sequence",
}
SEARCHES: dict[str, dict[str, GradientFree]] = {
    "xor": {
        "FiniteDifferences": optim.FiniteDifferences(learning_rate=2.0),
        "SPSA": optim.SPSA(learning_rate=0.2, h=1e-2),
        "RandomSearch": optim.RandomSearch(size=0.2),
        "SignSearch": optim.SignSearch(size=0.3),
        "Genetic": optim.Genetic(),
        "ParticleSwarm": optim.ParticleSwarm(),
    },
    "iris": {
        "FiniteDifferences": optim.FiniteDifferences(learning_rate=0.5),
        "SPSA": optim.SPSA(learning_rate=0.01, h=1e-2),
        "RandomSearch": optim.RandomSearch(size=0.03),
        "SignSearch": optim.SignSearch(size=0.1),
        "Genetic": optim.Genetic(size=0.1),
        "ParticleSwarm": optim.ParticleSwarm(size=0.3),
    },
    "digits": {
        "FiniteDifferences": optim.FiniteDifferences(learning_rate=1.0, h=1e-2),
        "SPSA": optim.SPSA(learning_rate=1e-3, h=1e-2),
        "RandomSearch": optim.RandomSearch(size=0.01),
        "SignSearch": optim.SignSearch(size=0.1),
        "Genetic": optim.Genetic(size=0.05, mutation=0.02),
        "ParticleSwarm": optim.ParticleSwarm(size=0.3),
    },
}
RATE = {"xor": 0.05, "iris": 0.01, "digits": 0.01}  # Adam's, for backpropagation and the credit rules


@dataclass(frozen=True)
class Entry:
    """A credit rule or a search on a task."""

    task: Task
    rule: credit.Credit
    optimizer: optim.OptimizerConfig
    steps: int


def names(task: Name) -> list[str]:
    """Of all rules and searches of a task."""
    return [*(RULES if task == "xor" else ("Backpropagation",)), *SEARCHES[task]]


def entry(name: Name, title: str) -> Entry:
    """The rule or search `title` on the task `name`."""
    task = xor(NETS.get(title, "perceptron")) if name == "xor" else flowers_or_digits(name)
    if title in RULES:
        return Entry(task, RULES[title], Adam(learning_rate=RATE[name]), STEPS if name == "xor" else BUDGET // 3)
    weights = sum(w.size for w in jax.tree.leaves(jax.eval_shape(task.model.init, jax.random.key(0), task.x)))
    search = SEARCHES[name][title]
    return Entry(task, credit.Backpropagation(), search, BUDGET // search.evaluations(weights))


def learning(entry: Entry) -> tuple[Callable[[Any], State], Callable[[State], State]]:
    """-> (from a seed to the state before the first step, from a state to the next)."""
    task, rule, search = entry.task, entry.rule, entry.optimizer
    spec = jax.ShapeDtypeStruct(task.x.shape, jnp.float32)
    optimizer = search.build(entry.steps, Objective(task.model, task.loss, (), spec))
    source = search if isinstance(search, GradientFree) else rule
    step = make_step(source.gradient(task.model, task.loss), optimizer, credit=rule)
    batch = {"x": jnp.asarray(task.x), "y": jnp.asarray(task.y), "mask": jnp.ones(len(task.x))}
    start = lambda seed: initial_state(task.model, optimizer, spec, seed, credit=rule)
    return start, lambda state: step(state, batch)


def outputs(task: Task, state: State, x: np.ndarray) -> jax.Array:
    """Of the net as it stands."""
    return task.model.forward(state.params, jnp.asarray(x), Context(state=state.model, train=False))[0]


def solved(task: Task, y: jax.Array) -> jax.Array:
    """Whether every output, or the probability of every label, is within 0.1 of its target."""
    if isinstance(task.loss, SoftmaxCrossEntropy):
        return jnp.all(jnp.take_along_axis(jax.nn.softmax(y), task.test_y[:, None], 1) > 0.9)
    return jnp.all(jnp.abs(y - task.test_y) < 0.1)


def wrong(task: Task, y: jax.Array) -> jax.Array:
    """The share of the test part that a net gets wrong, in percent."""
    return 100 * jnp.mean(jnp.argmax(y, -1) != task.test_y)


MEASURES = {"xor": solved, "iris": wrong, "digits": wrong}


def row(name: Name, title: str, seeds: int) -> dict[str, Any]:
    """What a rule or search reaches on a task: mean and spread over the seeds, and what it cost.

    The steps of other rules than backpropagation are worth no fixed number of evaluations: theirs are None.
    """
    subject = entry(name, title)
    start, step = learning(subject)

    def run(seed: Any) -> tuple[jax.Array, jax.Array]:
        """-> (the figure, how often the search asked for the loss)."""
        state = jax.lax.fori_loop(0, subject.steps, lambda _, state: step(state), start(seed))
        asked = state.optimizer.evaluations if isinstance(subject.optimizer, GradientFree) else 3 * subject.steps
        return MEASURES[name](subject.task, outputs(subject.task, state, subject.task.test_x)), jnp.int32(asked)

    before = time.process_time()
    figures, evaluations = jax.device_get(jax.jit(jax.vmap(run))(jnp.arange(seeds)))
    return {
        "name": title,
        "mean": float(np.mean(figures)),
        "spread": float(np.std(figures)),
        "evaluations": int(evaluations[0]) if title in (*SEARCHES[name], "Backpropagation") else None,
        "processor_seconds": round(time.process_time() - before, 1),
    }


def markdown(row: dict[str, Any], task: Name) -> str:
    """A line of the table."""
    figure = f"{100 * row['mean']:.0f} %" if task == "xor" else f"{row['mean']:.1f} +- {row['spread']:.1f}"
    evaluations = "" if row["evaluations"] is None else f"{row['evaluations']:,}"
    return f"| `{row['name']}` | {figure} | {evaluations} | {row['processor_seconds']} |"


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        task: xor: 2-4-1; iris: 4-16-3; digits: 64-32-10
        only: names of rules and searches, separated by commas; None: all
        seeds: nets of each
        json: also write machine and rows to this file
    """

    task: Name = "xor"
    only: Words | None = None
    seeds: Count = 20
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Prints the table of a task, and returns the exit status."""
    options = cli.read_all(Options, words)
    rows = []
    titles = options.only or names(options.task)
    for title in titles:
        if title not in names(options.task):
            raise unknown(f"rule or search of {options.task}:", title, names(options.task))
    for title in titles:
        rows.append(row(options.task, title, options.seeds))
        print(markdown(rows[-1], options.task), flush=True)
    if options.json:
        write_json(Path(options.json), {"facts": provenance(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
