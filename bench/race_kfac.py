"""K-FAC against Adam on the digits' autoencoder: python -m bench.race_kfac [--updates=1200] [--json=FILE]

The net, data and batches of configs/autoencoder_kfac.py from the same starts. Adam is tuned over learning rates, b2 and
schedules; counted are the updates that K-FAC needs to the training loss that the best Adam has after all of its own.
Several minutes.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxbp import Context
from jaxbp.commands import cli
from jaxbp.config import Config, load
from jaxbp.data import epoch_order
from jaxbp.errors import unknown
from jaxbp.files import write_json
from jaxbp.machine import machine
from jaxbp.optim import Adam, Constant, Cosine
from jaxbp.train.step import Feed, initial_state, make_program, make_step

flags.DEFINE_integer("updates", 1200, "of each Adam", lower_bound=3)
flags.DEFINE_string("json", None, "also write machine and losses to this file")
CONFIG = Path(__file__).parent.parent / "configs" / "autoencoder_kfac.py"
GRID = {"learning_rate": (1e-3, 3e-3, 1e-2, 3e-2), "b2": (0.99, 0.999), "schedule": (Constant(), Cosine())}
SEEDS = (0, 1, 2)
EVERY = 10  # updates between looks at the loss


def losses(config: Config, updates: int) -> np.ndarray:
    """[seeds, looks]: the loss of all training examples after every EVERY updates."""
    part, batch = config.data.load().train, config.run.batch_size
    spec = jax.ShapeDtypeStruct((batch, *part.x.shape[1:]), jnp.float32)
    objective, optimizer = config.objective(spec), config.build_optimizer(updates, spec)
    program = make_program(make_step(objective.gradient(), optimizer))
    every = {"x": part.x, "y": part.y, "weight": jnp.full(len(part), 1 / len(part))}
    value = jax.jit(lambda params: objective.value(params, every, Context()))
    found = []
    for seed in SEEDS:
        epochs = -(-updates * batch // len(part)) + 1
        orders = zip(*(epoch_order(seed, epoch, len(part), batch) for epoch in range(epochs)), strict=True)
        feed = Feed(jnp.asarray(part.x), jnp.asarray(part.y), *(jnp.asarray(np.concatenate(parts)) for parts in orders))
        state, row = initial_state(objective.model, optimizer, spec, seed), []
        for first in range(0, updates, EVERY):
            state, _ = program(state, feed, jnp.int32(first), jnp.int32(EVERY))
            row.append(float(value(state.params)))
        found.append(row)
    return np.array(found)


def main(words: list[str]) -> int:
    if words:
        raise unknown("option", words[0], ["--updates", "--json"])
    config, updates, rows = load(CONFIG), flags.FLAGS.updates, []
    for values in tqdm(list(itertools.product(*GRID.values())), unit="Adam", disable=None, leave=False):
        adam = Adam(**dict(zip(GRID, values, strict=True)))
        rows.append((adam, losses(replace(config, optimizer=adam), updates)[:, -1]))
        tqdm.write(f"{adam.learning_rate:g} {adam.b2:g} {type(adam.schedule).__name__}: {rows[-1][1].mean():.3f}")
    adam, goal = min(rows, key=lambda row: row[1].mean())
    kfac = losses(config, updates // 2)
    reached = [
        EVERY * (int(np.argmax(row <= aim)) + 1) if (row <= aim).any() else None
        for row, aim in zip(kfac, goal, strict=True)
    ]
    print(
        f"best Adam: learning_rate={adam.learning_rate:g}, b2={adam.b2:g}, {type(adam.schedule).__name__}; training "
        f"loss after {updates} updates {', '.join(f'{x:.3f}' for x in goal)} (seeds {SEEDS})"
    )
    print(
        f"K-FAC reaches them after {', '.join(map(str, reached))} updates, and {kfac[:, -1].mean():.3f} on average "
        f"after {updates // 2}"
    )
    if flags.FLAGS.json:
        grid = [
            {
                "learning_rate": a.learning_rate,
                "b2": a.b2,
                "schedule": type(a.schedule).__name__,
                "losses": found.tolist(),
            }
            for a, found in rows
        ]
        facts = machine() | {"date": datetime.now(UTC).date().isoformat()}
        write_json(
            Path(flags.FLAGS.json),
            {
                "machine": facts,
                "updates": updates,
                "adam": grid,
                "kfac_every": EVERY,
                "kfac": kfac.tolist(),
                "kfac_updates": reached,
            },
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
