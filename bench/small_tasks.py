"""Credit rules and searches on small tasks, from many seeds in one program each:

    python -m bench.small_tasks [--task=xor|iris|digits] [--only=NAME,NAME] [--seeds=20] [--json=FILE]

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
from jaxbp.files import write_json
from jaxbp.losses import Loss, SoftmaxCrossEntropy, SquaredError
from jaxbp.machine import provenance
from jaxbp.models import MLP, FeedbackMLP, ModelConfig
from jaxbp.optim import Adam, Objective
from jaxbp.optim.gradient_free import GradientFree
from jaxbp.training.step import initial_state, make_step
from jaxbp.typed import Count, Typed

BUDGET = 30_000  # evaluations of the loss
STEPS = 1000  # of a credit rule on xor


@dataclass(frozen=True)
class Task:
    """A net, its loss, and all rows: x, y for training, the last two for the test."""

    model: Layer
    loss: Loss
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def xor(rule: credit.Credit | None = None) -> Task:
    """configs/xor.py; with the net, form of the data and loss that a rule needs where it needs others."""
    config = load(Path(__file__).parent.parent / "configs/xor.py")
    part = Logic("xor").load().train
    x, y, loss = part.x, part.y, config.loss
    model: ModelConfig = config.model
    if isinstance(rule, credit.EquilibriumPropagation):
        model, loss = FeedbackMLP(outputs=1, hidden=(4,)), SquaredError()
    elif isinstance(rule, credit.DifferenceTargetPropagation):
        model = MLP(1, (4, 4), "tanh", "sigmoid", w_init="glorot_normal")  # one hidden layer has no inverse to learn
    elif isinstance(rule, credit.ForwardForward):
        model, loss, y = MLP(outputs=2, hidden=(16,)), SoftmaxCrossEntropy(), y[:, 0].astype(np.int32)
    return Task(model.build(), loss, x, y, x, y)


def flowers_or_digits(name: Literal["iris", "digits"]) -> Task:
    """One hidden layer: 16 units of tanh for iris, 32 for digits."""
    splits = Embedded(name, scaling="standard" if name == "iris" else "min_max").load()
    hidden, outputs = (16, 3) if name == "iris" else (32, 10)
    model = MLP(outputs=outputs, hidden=(hidden,), activation="tanh", w_init="glorot_normal").build()
    return Task(model, SoftmaxCrossEntropy(), splits.train.x, splits.train.y, splits.test.x, splits.test.y)


RULES = compare_credit.RULES | {
    "DifferenceTargetPropagation": credit.DifferenceTargetPropagation(),
    "ForwardForward": credit.ForwardForward(),
    "ForwardGradient": credit.ForwardGradient(),
    "NoisyEM": credit.NoisyEM(),
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


def trained(task: Task, rule: credit.Credit, search: optim.OptimizerConfig, steps: int, seeds: int) -> tuple[Any, Any]:
    """-> (the outputs of the test part, how often the search asked for the loss), a row for every seed."""
    spec = jax.ShapeDtypeStruct(task.x.shape, jnp.float32)
    optimizer = search.build(steps, Objective(task.model, task.loss, (), spec))
    free = isinstance(search, GradientFree)
    gradient = search.gradient(task.model, task.loss) if free else rule.gradient(task.model, task.loss)
    step = make_step(gradient, optimizer, credit=rule)
    batch = {"x": jnp.asarray(task.x), "y": jnp.asarray(task.y), "mask": jnp.ones(len(task.x))}

    def run(seed: Any) -> tuple[jax.Array, jax.Array]:
        state = initial_state(task.model, optimizer, spec, seed, credit=rule)
        state = jax.lax.fori_loop(0, steps, lambda i, s: step(s, batch), state)
        y, _ = task.model.forward(state.params, jnp.asarray(task.test_x), Context(state=state.model, train=False))
        return y, state.optimizer.evaluations if free else jnp.int32(3 * steps)

    return jax.device_get(jax.jit(jax.vmap(run))(jnp.arange(seeds)))


def solved(task: Task, outputs: np.ndarray) -> np.ndarray:
    """For each seed whether every output, or the probability of every label, is within 0.1 of its target."""
    if isinstance(task.loss, SoftmaxCrossEntropy):
        probability = np.asarray(jax.nn.softmax(outputs))[:, np.arange(len(task.test_y)), task.test_y]
        return np.all(probability > 0.9, 1)
    return np.all(np.abs(outputs - task.test_y) < 0.1, (1, 2))


def wrong(task: Task, outputs: np.ndarray) -> np.ndarray:
    """For each seed the share of the test part that it gets wrong, in percent."""
    return 100 * (outputs.argmax(-1) != task.test_y).mean(-1)


Row = dict[str, Any]


def row(name: str, figures: np.ndarray, evaluations: int, seconds: float) -> Row:
    return {
        "name": name,
        "mean": float(np.mean(figures)),
        "spread": float(np.std(figures)),
        "evaluations": evaluations,
        "processor_seconds": round(seconds, 1),
    }


def rows_of(options: Options, measure: Callable[[Task, np.ndarray], np.ndarray]) -> list[Row]:
    """A row for each rule and search of the task."""
    name = options.task
    rules = RULES if name == "xor" else {"Backpropagation": RULES["Backpropagation"]}
    entries: dict[str, credit.Credit | GradientFree] = {**rules, **SEARCHES[name]}
    rows = []
    for title in options.only.split(",") if options.only else entries:
        entry = entries[title]
        search = entry if isinstance(entry, GradientFree) else None
        rule = entry if isinstance(entry, credit.Credit) else credit.Backpropagation()
        task = xor(rule) if name == "xor" else flowers_or_digits(name)
        weights = sum(w.size for w in jax.tree.leaves(jax.eval_shape(task.model.init, jax.random.key(0), task.x)))
        steps = BUDGET // search.evaluations(weights) if search else STEPS if name == "xor" else BUDGET // 3
        start = time.process_time()
        outputs, evaluations = trained(task, rule, search or Adam(learning_rate=RATE[name]), steps, options.seeds)
        figures = measure(task, outputs)
        rows.append(row(title, figures, int(evaluations[0]), time.process_time() - start))
        print(markdown(rows[-1], name), flush=True)
    return rows


def markdown(row: Row, task: str) -> str:
    """A line of the table."""
    figure = f"{100 * row['mean']:.0f} %" if task == "xor" else f"{row['mean']:.1f} +- {row['spread']:.1f}"
    return f"| `{row['name']}` | {figure} | {row['evaluations']:,} | {row['processor_seconds']} |"


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        task: xor: 2-4-1; iris: 4-16-3; digits: 64-32-10
        only: names of rules and searches, separated by commas; None: all
        seeds: nets of each
        json: also write machine and rows to this file
    """

    task: Literal["xor", "iris", "digits"] = "xor"
    only: str | None = None
    seeds: Count = 20
    json: cli.OutputFile | None = None


def main(words: Sequence[str]) -> int:
    """Prints the table of a task, and returns the exit status."""
    options = cli.read_all(Options, words)
    rows = rows_of(options, solved if options.task == "xor" else wrong)
    if options.json:
        write_json(Path(options.json), {"facts": provenance(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
