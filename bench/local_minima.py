"""Where a hundred starts of XOR end: how many at each loss, for three widths of the net.

    python -m bench.local_minima [--out=FILE.png]

configs/xor.py from seeds 0-99, with 2, 3 and 4 hidden units. The loss is the mean over four
rows of half a square: 1/16 where two rows of different targets have the output 1/2 and the others are right, 1/12 where
three rows share the mean of their targets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.config import load
from jaxbp.training.step import initial_state, make_step

CONFIG = Path(__file__).parent.parent / "configs/xor.py"
WIDTHS = (2, 3, 4)
EDGES = np.arange(0, 0.131, 0.01)


class Ends(NamedTuple):
    """Of every start; each [seeds]."""

    loss: np.ndarray
    solved: np.ndarray  # whether every |y - t| < 0.1
    slope: np.ndarray  # the norm of the gradient


def ends(hidden: int, seeds: int = 100) -> Ends:
    """The ends of seeds 0, 1 ... of a 2-`hidden`-1 net."""
    config = load(CONFIG)
    steps = config.run.epochs
    model, optimizer = replace(config.model, hidden=(hidden,)).build(), config.optimizer.build(steps)
    part = config.data.load().train
    batch = {"x": jnp.asarray(part.x), "y": jnp.asarray(part.y), "mask": jnp.ones(4)}
    gradient = jaxbp.value_and_grad(model, config.loss)
    step = make_step(gradient, optimizer)

    def end(seed: jax.Array) -> Ends:
        state = initial_state(model, optimizer, jax.ShapeDtypeStruct((4, 2), jnp.float32), seed)
        state = jax.lax.fori_loop(0, steps, lambda _, s: step(s, batch), state)
        result = gradient(state.params, jaxbp.batch(batch["x"], batch["y"]))
        squares = sum(jnp.sum(g**2) for g in jax.tree.leaves(result.grads))
        y, _ = model.forward(state.params, batch["x"], jaxbp.Context(train=False))
        return Ends(result.value, jnp.all(jnp.abs(y - batch["y"]) < 0.1), jnp.sqrt(squares))

    return jax.device_get(jax.jit(jax.vmap(end))(jnp.arange(seeds)))


def draw(of_widths: dict[int, Ends], path: str) -> None:
    """A histogram of the losses for each width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axes, (width, starts) in zip(figure.subplots(1, len(of_widths), sharey=True), of_widths.items(), strict=True):
        axes.hist(starts.loss, EDGES)
        axes.set_title(f"2-{width}-1: {starts.solved.sum()} of {len(starts.loss)} solved", fontsize=10)
        axes.set_xlabel("loss at the end", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=72)


class Options(cli.WithPicture):
    """The options of the program."""


def main(words: Sequence[str]) -> int:
    """Prints the counts, draws the picture, and returns the exit status."""
    options = cli.read_all(Options, words)
    of_widths = {width: ends(width) for width in WIDTHS}
    for width, starts in of_widths.items():
        counts = np.histogram(starts.loss, EDGES)[0]
        levels = [f"{EDGES[i]:.2f}: {count}" for i, count in enumerate(counts) if count]
        stuck = starts.slope[~starts.solved]
        print(
            f"2-{width}-1: {starts.solved.sum()} of 100 solved; starts that end from each loss on: {', '.join(levels)}"
        )
        print(f"  largest gradient of those that are not solved: {stuck.max(initial=0):.1e}")
    if options.out:
        draw(of_widths, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
