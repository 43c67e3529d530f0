"""The figures of docs/other_nets.md:

    python -m bench.other_nets [--task=gains]                steps until XOR is solved, from 20 seeds
    python -m bench.other_nets --task=noise                  noisy EM beside blind noise, on the digits, from 5 seeds
    python -m bench.other_nets --task=cuts --workdir=DIR     cuts of a run that has ended, by magnitude and by saliency

cuts takes the run's last weights. It scores them on the first 2,000 training rows, cuts, and trains what is left for
200 steps of Adam, each on 256 rows drawn at random. Its figures are errors of the test part, in percent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbp
from bench.small_tasks import Entry, flowers_or_digits, learning, outputs, solved, wrong, xor
from jaxbp import Context, credit, optim
from jaxbp.analysis import pruning
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import PyTree
from jaxbp.errors import InputError
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.step import State
from jaxbp.typed import Typed

GAINS = {
    **{f"SGD, rate {rate:g}": optim.SGD(rate) for rate in (1.0, 4.0, 16.0)},
    **{
        f"GainBackpropagation, rate {rate:g}, forgetting {forgetting:g}": optim.GainBackpropagation(
            learning_rate=rate, forgetting=forgetting
        )
        for rate in (0.5, 2.0, 8.0)
        for forgetting in (1.0, 0.9, 0.5)
    },
    "rprop": optim.Optax(0.01, name="rprop"),
}
TARGETS = {
    "as they are": credit.Backpropagation(),
    **{
        f"{'blind' if blind else 'NEM'} noise, scale {scale:g}, annealing {annealing:g}": credit.NoisyEM(
            scale, annealing, blind
        )
        for scale, annealing in ((1.0, 1.0), (0.3, 0.25))
        for blind in (True, False)
    },
}
LEFT = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02)  # shares of the weights


def curves(entry: Entry, seeds: int, figures: Callable[[State], Any]) -> Any:
    """The figures before each step, each [seeds, steps]."""
    start, step = learning(entry)
    run = lambda seed: jax.lax.scan(lambda state, _: (step(state), figures(state)), start(seed), None, entry.steps)[1]
    return jax.device_get(jax.jit(jax.vmap(run))(jnp.arange(seeds)))


def gains() -> Iterator[str]:
    """| optimizer | median of the steps until all outputs are within 0.1 | seeds of 20 that come there | in 3,000."""
    task = xor("perceptron")
    for name, optimizer in GAINS.items():
        entry = Entry(task, credit.Backpropagation(), optimizer, 3000)
        reached = curves(entry, 20, lambda state: solved(task, outputs(task, state, task.x)))
        first = np.where(reached.any(1), reached.argmax(1), entry.steps)
        yield f"| {name} | {np.median(first):.0f} | {reached.any(1).sum()} |"


def noise() -> Iterator[str]:
    """| targets | steps until the cross-entropy of the training rows is below 0.3 | test error after 300 steps |."""
    task = flowers_or_digits("digits")
    everyone = jnp.full(len(task.x), 1 / len(task.x))

    def figures(state: State) -> tuple[jax.Array, jax.Array]:
        value, _ = task.loss.forward(outputs(task, state, task.x), jnp.asarray(task.y), everyone)
        return value, wrong(task, outputs(task, state, task.test_x))

    for name, rule in TARGETS.items():
        losses, errors = curves(Entry(task, rule, optim.SGD(0.5), 301), 5, figures)
        yield f"| {name} | {np.mean(np.argmax(losses < 0.3, 1)):.1f} | {np.mean(errors[:, 300]):.1f} |"


def cuts(workdir: str) -> Iterator[str]:
    """| weights left | error by magnitude | and trained on | by saliency | and trained on |."""
    run = jaxbp.load(workdir)
    splits = run.config.load_data()
    if splits.classes is None:
        raise InputError(f"--task=cuts needs a run of data with classes, and that in {workdir} has none")
    x, y = jnp.asarray(splits.train.x), jnp.asarray(splits.train.y)
    batch = jaxbp.batch(x[:2000], y[:2000])
    saliencies = jax.jit(pruning.saliencies(run.model, run.config.loss))
    scores = pruning.magnitudes(run.params), saliencies(run.params, batch, Context.evaluation(run.state))
    evaluate = make_evaluation(run.model, run.config.loss, True)
    gradient, adam = jaxbp.value_and_grad(run.model, run.config.loss), optax.adam(1e-3)
    error = lambda params: 100 * (1 - evaluate(params, run.state, splits.test)["accuracy"])

    @jax.jit
    def trained_on(params: PyTree) -> PyTree:
        left = jax.tree.map(lambda w: w != 0, params)

        def step(carry: tuple[PyTree, PyTree], key: jax.Array) -> tuple[tuple[PyTree, PyTree], None]:
            params, state = carry
            rows = jax.random.randint(key, (256,), 0, len(x))
            grads = gradient(params, jaxbp.batch(x[rows], y[rows]), Context(key, run.state)).grads
            updates, state = adam.update(jax.tree.map(jnp.multiply, grads, left), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, adam.init(params)), jax.random.split(jax.random.key(0), 200))[0][0]

    for share in LEFT:
        nets = [pruning.cut(run.params, score, share) for score in scores]
        errors = " | ".join(f"{error(params):.2f} | {error(trained_on(params)):.2f}" for params in nets)
        yield f"| {100 * share:g} % | {errors} |"


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        task: whose figures
        workdir: of cuts: the folder of a run
    """

    task: Literal["gains", "noise", "cuts"] = "gains"
    workdir: str | None = None


def main(words: Sequence[str]) -> int:
    """Prints the lines of a table, and returns the exit status."""
    options = cli.read_all(Options, words)
    if options.task == "cuts" and options.workdir is None:
        raise InputError("--task=cuts needs --workdir, the folder of a run")
    for line in {"gains": gains, "noise": noise, "cuts": lambda: cuts(str(options.workdir))}[options.task]():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
