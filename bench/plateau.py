"""A plateau: a student with two hidden units that start nearly equal, by gradient descent and by natural gradient.

    python -m bench.plateau [--out=FILE.png]

Teacher and student are 5-2-1 nets of tanh units. The teacher's two units differ a little, by 0.3 radians; the
student's start a thousandth apart, close to the region where they are equal and the Fisher matrix is singular. So the
student soon finds the mean of the two, and then has to part its units. Each step sees 8 new inputs, and each optimizer
has the best of its rates. Printed: the steps until the squared error on 500 other inputs is below 1e-6, some hundredth
of that on the plateau, for 20 teachers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbp
from jaxbp import optim
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import Context, PyTree
from jaxbp.losses import SquaredError

INPUTS, ROWS, SEEDS, STEPS = 5, 8, 20, 10_000
GOAL = 1e-6  # of the mean squared error
ANGLE = 0.15  # of each unit of the teacher to their mean
MODEL = jaxbp.Chain(jaxbp.Dense(2, bias=False), jaxbp.Tanh(), jaxbp.Dense(1, bias=False))
OPTIMIZERS: dict[str, Callable[[float], optim.OptimizerConfig]] = {
    "gradient descent": lambda rate: optim.SGD(rate),
    "with momentum 0.9": lambda rate: optim.SGD(rate / 10, momentum=0.9),
    "adaptive natural gradient": lambda rate: optim.AdaptiveNaturalGradient(rate / 10, damping=1e-3, rate=0.02),
    "natural gradient of each batch": lambda rate: optim.NaturalGradient(rate / 10, damping=1e-3),
}
RATES = (0.2, 0.5, 1.0, 2.0)


def net(units: jax.Array, out: float) -> PyTree:
    """Parameters with both weights to the output alike."""
    return {"00_dense": {"w": units}, "01_tanh": {}, "02_dense": {"w": jnp.full((1, 2), out)}}


def errors(config: optim.OptimizerConfig, steps: int = STEPS, seeds: int = SEEDS, every: int = 20) -> np.ndarray:
    """[seeds, steps / every]: the mean squared error on other inputs, from before the first step on."""
    spec = jax.ShapeDtypeStruct((ROWS, INPUTS), jnp.float64)
    objective = optim.Objective(MODEL, SquaredError(), (), spec)
    optimizer, gradient = config.build(steps, objective), objective.gradient()
    output = lambda params, x: MODEL.forward(params, x, Context())[0]

    def run(seed: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), 4)
        orthogonal = jnp.linalg.qr(jax.random.normal(keys[0], (INPUTS, INPUTS), jnp.float64))[0]
        mean, apart = jnp.cos(ANGLE) * orthogonal[0], jnp.sin(ANGLE) * orthogonal[1]
        teacher = net(jnp.stack([mean + apart, mean - apart]), 1.0)
        unit = 0.3 * jax.random.normal(keys[1], (1, INPUTS), jnp.float64)
        units = unit + 1e-3 * jax.random.normal(keys[2], (2, INPUTS), jnp.float64)
        student = net(units, 0.5)
        others = jax.random.normal(jax.random.fold_in(keys[3], steps), (500, INPUTS), jnp.float64)

        def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
            params, state = carry
            x = jax.random.normal(jax.random.fold_in(keys[3], number), (ROWS, INPUTS), jnp.float64)
            batch = jaxbp.batch(x, output(teacher, x))
            result = gradient(params, batch)
            updates, state = optimizer.update(
                result.grads, state, params, value=result.value, batch=batch, ctx=Context()
            )
            return (optax.apply_updates(params, updates), state), None

        def stretch(carry: tuple, first: jax.Array) -> tuple[tuple, jax.Array]:
            error = jnp.mean((output(carry[0], others) - output(teacher, others)) ** 2)
            return jax.lax.scan(step, carry, first + jnp.arange(every))[0], error

        return jax.lax.scan(stretch, (student, optimizer.init(student)), jnp.arange(0, steps, every))[1]

    return np.asarray(jax.jit(jax.vmap(run))(jnp.arange(seeds)))


def steps_to(goal: float, of_run: np.ndarray, every: int = 20) -> np.ndarray:
    """[seeds]: the step at which each error is below the goal for the first time; inf where it never is."""
    below = of_run < goal
    return np.where(below.any(1), every * below.argmax(1), np.inf)


def draw(runs: dict[str, np.ndarray], path: str) -> None:
    """The median errors over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, of_run in runs.items():
        steps = 20 * np.arange(of_run.shape[1])
        low, middle, high = np.quantile(of_run, (0.25, 0.5, 0.75), axis=0)
        (line,) = axes.plot(steps + 1, middle, label=name)
        axes.fill_between(steps + 1, low, high, color=line.get_color(), alpha=0.15)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-6)
    axes.set_xlabel("steps", fontsize=8)
    axes.set_title("mean squared error, median and quartiles of 20", fontsize=10)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=72)


class Options(cli.WithPicture):
    """The options of the program."""


def main(words: Sequence[str]) -> int:
    """Prints the table, draws the picture, and returns the exit status."""
    options = cli.read_all(Options, words)
    best = {}
    print("| optimizer | best rate | steps: median | least | most |\n|---|---|---|---|---|")
    with jax.enable_x64(True):
        for name, config in OPTIMIZERS.items():
            runs = {rate: errors(config(rate)) for rate in RATES}
            rate = min(RATES, key=lambda rate: (np.median(steps_to(GOAL, runs[rate])), rate))
            steps = steps_to(GOAL, runs[rate])
            best[name] = runs[rate]
            print(
                f"| {name} | {config(rate).learning_rate} | {np.median(steps)} | {steps.min()} | {steps.max()} |",
                flush=True,
            )
    if options.out:
        draw(best, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
