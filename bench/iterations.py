"""How many steps five ways to minimize need, on three small problems of least squares, in float64.

    python -m bench.iterations

prints a table: steps, and in brackets gradients, each until the loss is within the problem's goal of the lowest that
any of them reaches in the end. GD has the best of its fixed rates. CG (Polak & Ribiere) and BFGS are SciPy's. LM and
Newton are jaxbp.optim's; their products with a matrix, and the rows of its Jacobian, are not in the brackets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.optimize import OptimizeResult, minimize

import jaxbp
from jaxbp import optim
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.core import Batch, Context, PyTree
from jaxbp.losses import SquaredError
from jaxbp.typed import Typed

RATES = [2.0**k for k in range(-14, 4)]
MOST = 100_000  # steps of gradient descent; the others have MOST / 100


@dataclass(frozen=True)
class Problem:
    """A model and its data."""

    objective: optim.Objective
    params: PyTree
    batch: Batch
    goal: float  # how near to the lowest loss


def problem(layers: tuple, x: np.ndarray, y: np.ndarray, goal: float, seed: int) -> Problem:
    """The layers in a chain, with squared error."""
    model = jaxbp.Chain(layers)
    batch = jaxbp.batch(jnp.asarray(x), jnp.asarray(y))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), model.init(jax.random.key(seed), batch["x"]))
    return Problem(optim.Objective(model, SquaredError()), params, batch, goal)


def problems() -> dict[str, Problem]:
    """A problem that is quadratic and badly scaled, XOR, and a curve."""
    rng = np.random.default_rng(0)
    scales = rng.normal(size=(50, 8)) * np.geomspace(0.1, 1, 8)
    x = np.linspace(-1, 1, 40)[:, None]
    points = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    tanh = lambda units: (jaxbp.Dense(units), jaxbp.Tanh(), jaxbp.Dense(1))
    return {
        "linear, 8 inputs, scales 0.1 to 1": problem((jaxbp.Dense(1),), scales, scales.sum(1, keepdims=True), 1e-6, 0),
        "XOR, 2-3-1": problem(tanh(3), points, np.array([[0.0], [1], [1], [0]]), 1e-6, 0),
        "sine, 1-6-1": problem(tanh(6), x, np.sin(4 * x), 1e-4, 0),
    }


def by_optax(
    task: Problem, optimizer: optax.GradientTransformationExtraArgs, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """(losses before each step, gradients until then) of a transformation of jaxbp.optim."""
    gradient = task.objective.gradient()

    def step(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
        params, state = carry
        result = gradient(params, task.batch)
        updates, state = optimizer.update(
            result.grads, state, params, value=result.value, batch=task.batch, ctx=Context()
        )
        return (jax.tree.map(jnp.add, params, updates), state), result.value

    scan = lambda params: jax.lax.scan(step, (params, optimizer.init(params)), None, steps)[1]
    losses = np.asarray(jax.jit(scan)(task.params))
    return losses, np.arange(steps) + 1


def by_scipy(task: Problem, method: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(losses before each step, gradients until then) of scipy.optimize.minimize."""
    flat, unravel = ravel_pytree(task.params)
    run = jax.jit(lambda theta: task.objective.gradient()(unravel(theta), task.batch))
    calls = 0

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal calls
        calls += 1
        result = run(theta)
        return float(result.value), np.asarray(ravel_pytree(result.grads)[0])

    losses, gradients = [float(run(flat).value)], [1]

    def after_step(intermediate_result: OptimizeResult) -> None:
        losses.append(intermediate_result.fun)
        gradients.append(calls)

    options = {"maxiter": steps, "gtol": 1e-10}
    minimize(value_and_gradient, flat, jac=True, method=method, callback=after_step, options=options)
    return np.array(losses), np.array(gradients)


def by_descent(task: Problem, goal: float) -> int | None:
    """The fewest steps to the goal among the fixed rates."""
    gradient = task.objective.gradient()

    def steps(rate: jax.Array) -> jax.Array:
        def body(carry: tuple) -> tuple:
            params, _, count = carry
            result = gradient(params, task.batch)
            return jax.tree.map(lambda p, g: p - rate * g, params, result.grads), result.value, count + 1

        going_on = lambda carry: (carry[1] > goal) & (carry[2] <= MOST)  # also ends where the loss is nan
        _, loss, count = jax.lax.while_loop(going_on, body, (task.params, jnp.inf, 0))
        return jnp.where(loss <= goal, count - 1, MOST)

    fewest = min(int(count) for count in jax.jit(lambda rates: jax.lax.map(steps, rates))(jnp.array(RATES)))
    return fewest if fewest < MOST else None


def row(task: Problem) -> list[str]:
    """The cells of GD, CG, BFGS, LM and Newton."""
    steps = MOST // 100
    runs = [
        by_scipy(task, "CG", steps),
        by_scipy(task, "BFGS", steps),
        by_optax(task, optim.levenberg_marquardt(task.objective), steps),
        by_optax(task, optim.newton(task.objective, "hessian", tolerance=1e-3), steps),
    ]
    goal = task.goal + min(float(losses.min()) for losses, _ in runs)
    fewest = by_descent(task, goal)
    cells = ["not in 100,000" if fewest is None else f"{fewest}"]
    for losses, gradients in runs:
        reached = np.flatnonzero(losses <= goal)
        cells.append(f"{reached[0]} ({gradients[reached[0]]})" if reached.size else f"ends at {losses.min():.1e}")
    return cells


@dataclass(frozen=True)
class Options(Typed):
    """The program has no options."""


def main(words: Sequence[str]) -> int:
    """Prints the table, and returns the exit status."""
    cli.read_all(Options, words)
    print("| problem | GD | CG | BFGS | LM | Newton |\n|---|---|---|---|---|---|")
    with jax.enable_x64(True):
        for name, task in problems().items():
            print(f"| {name} | {' | '.join(row(task))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
