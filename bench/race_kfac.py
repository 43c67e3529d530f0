"""K-FAC against Adam on the digits' autoencoder: python -m bench.race_kfac [--updates=1200] [--json=FILE]

The net, data and batches of configs/autoencoder_kfac.py, from the same starts. Adam is tuned over learning rates, b2
and schedules. The result is the number of updates after which K-FAC has the training loss that the best Adam has after
all of its own. Several minutes.
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
from jaxbp.training.step import Feed, initial_state, make_program, make_step

flags.DEFINE_integer("updates", 1200, "of each Adam", lower_bound=3)
flags.DEFINE_string("json", None, "also write machine and losses to this file")
CONFIG = Path(__file__).parent.parent / "configs" / "autoencoder_kfac.py"
GRID = {"learning_rate": (1e-3, 3e-3, 1e-2, 3e-2), "b2": (0.99, 0.999), "schedule": (Constant(), Cosine())}
SEEDS = (0, 1, 2)
EVERY = 10  # updates between measurements of the loss


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


def main(words: list[str]) -> int:
    if words:
        raise unknown("option", words[0], ["--updates", "--json"])
    config = load(CONFIG)
    updates = flags.FLAGS.updates
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
    if flags.FLAGS.json:
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
        write_json(Path(flags.FLAGS.json), report)
    return 0


if __name__ == "__main__":
    cli.run(main)
