"""K-FAC against Adam on the digits' autoencoder: python -m bench.race_kfac [--updates=1200] [--json=FILE]

The net, data and batches of configs/autoencoder_kfac.py, from the same starts. Adam is tuned over learning rates, b2
and schedules. The result is the number of updates after which K-FAC has the training loss that the best Adam has after
all of its own. Several minutes.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxbp import Context
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.config import Config, load
from jaxbp.data import epoch_order
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.optim import Adam, Constant, Cosine
from jaxbp.training.step import Feed, initial_state, make_program, make_step
from jaxbp.typed import Range, Typed

CONFIG = Path(__file__).parent.parent / "configs" / "autoencoder_kfac.py"
GRID = {"learning_rate": (1e-3, 3e-3, 1e-2, 3e-2), "b2": (0.99, 0.999), "schedule": (Constant(), Cosine())}
SEEDS = (0, 1, 2)
EVERY = 10  # updates between measurements of the loss


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        updates: of each Adam
        json: also write machine and losses to this file
    """

    updates: Annotated[int, Range(3)] = 1200
    json: cli.OutputFile | None = None


def losses(config: Config, updates: int) -> np.ndarray:
    """[seeds, measurements]: the loss of all training examples after every EVERY updates."""
    train, rows = config.data.load().train, config.run.batch_size
    spec = jax.ShapeDtypeStruct((rows, *train.x.shape[1:]), jnp.float32)
    objective, optimizer = config.objective(spec), config.build_optimizer(updates, spec)
    program = make_program(make_step(objective.gradient(), optimizer))
    whole = {"x": train.x, "y": train.y, "weight": jnp.full(len(train), 1 / len(train))}
    value = jax.jit(lambda params: objective.value(params, whole, Context()))
    epochs = -(-updates * rows // len(train)) + 1
    curves = []
    for seed in SEEDS:
        orders, masks = zip(*(epoch_order(seed, epoch, len(train), rows) for epoch in range(epochs)), strict=True)
        order, mask = jnp.asarray(np.concatenate(orders)), jnp.asarray(np.concatenate(masks))
        feed = Feed(jnp.asarray(train.x), jnp.asarray(train.y), order, mask)
        state = initial_state(objective.model, optimizer, spec, seed)
        curve = []
        for first in range(0, updates, EVERY):
            state, _ = program(state, feed, jnp.int32(first), jnp.int32(EVERY))
            curve.append(float(value(state.params)))
        curves.append(curve)
    return np.array(curves)


def updates_to(goal: float, curve: np.ndarray) -> int | None:
    """The number of updates after which the loss is at most `goal`; None where it never is."""
    below = curve <= goal
    return EVERY * (int(np.argmax(below)) + 1) if below.any() else None


def main(words: Sequence[str]) -> int:
    """Runs the race that the words ask for, and returns the exit status."""
    options = cli.read_all(Options, words)
    config = load(CONFIG)
    updates = options.updates
    last = {}  # Adam: its last loss for each seed
    for values in tqdm(list(itertools.product(*GRID.values())), unit="Adam", disable=None, leave=False):
        adam = Adam(**dict(zip(GRID, values, strict=True)))
        last[adam] = losses(replace(config, optimizer=adam), updates)[:, -1]
        tqdm.write(f"{adam.learning_rate:g} {adam.b2:g} {type(adam.schedule).__name__}: {last[adam].mean():.3f}")
    best = min(last, key=lambda adam: last[adam].mean())
    kfac = losses(config, updates // 2)
    reached = [updates_to(goal, curve) for goal, curve in zip(last[best], kfac, strict=True)]
    print(
        f"best Adam: learning_rate={best.learning_rate:g}, b2={best.b2:g}, {type(best.schedule).__name__}; training "
        f"loss after {updates} updates {', '.join(f'{loss:.3f}' for loss in last[best])} (seeds {SEEDS})"
    )
    print(
        f"K-FAC reaches them after {', '.join(map(str, reached))} updates, and {kfac[:, -1].mean():.3f} on average "
        f"after {updates // 2}"
    )
    if options.json:
        report = {
            "machine": machine() | {"date": datetime.now(UTC).date().isoformat()},
            "updates": updates,
            "adam": [
                {
                    "learning_rate": adam.learning_rate,
                    "b2": adam.b2,
                    "schedule": type(adam.schedule).__name__,
                    "losses": values.tolist(),
                }
                for adam, values in last.items()
            ],
            "kfac_every": EVERY,
            "kfac": kfac.tolist(),
            "kfac_updates": reached,
        }
        write_json(Path(options.json), report)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
