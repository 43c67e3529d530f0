"""An image array on the disk against one in memory: steps of mnist_cnn's config, and the most memory of the process.

    python -m bench.sources --folder=FOLDER [--gigabytes=4]

makes an array of random bytes in the folder, if it is not there. First the steps from the disk alone, with an
evaluation, after which the memory is read; then both, in turns. The ratio is that of the shortest times; the seconds of
both cores are told too, which other processes disturb less.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import config as configuration
from jaxbp.commands import cli
from jaxbp.commands.__main__ import guarded
from jaxbp.config import Config
from jaxbp.data import ArrayFiles, Dataset, Splits
from jaxbp.machine import provenance
from jaxbp.training.assembly import training_step
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.feeds import make_feeds
from jaxbp.training.fit import batch_spec
from jaxbp.training.step import initial_state, make_program
from jaxbp.typed import Positive, Typed

ROOT = Path(__file__).parent.parent
SIDE = 28
PER_CALL = 100
IN_MEMORY = 60_000  # images of the array in memory


def write_array(folder: Path, gigabytes: float) -> None:
    """x.npy, images of random bytes, and y.npy, their labels."""
    count = int(gigabytes * 1e9 / SIDE**2)
    if (folder / "y.npy").is_file() and len(np.load(folder / "y.npy")) == count:
        return
    folder.mkdir(parents=True, exist_ok=True)
    block = np.random.default_rng(0).integers(0, 256, (50_000, SIDE, SIDE), np.uint8)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE)}
    with (folder / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, count, len(block)):
            file.write(np.roll(block, first, axis=0)[: count - first].tobytes())
    np.save(folder / "y.npy", (np.arange(count) % 10).astype(np.uint8))


def most_memory() -> int:
    """The most resident bytes that the process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def stepper(config: Config, splits: Splits) -> Callable[[int], tuple[float, float]]:
    """calls -> (seconds, seconds of all cores) of a step, with the loop's own order of reading and computing."""
    model = config.build_model()
    rows = config.run.batch_size or len(splits.train)
    objective = config.objective(batch_spec(splits, rows))
    optimizer = config.build_optimizer(10_000, objective.spec)
    program = make_program(training_step(config, model, optimizer, objective))
    state = initial_state(model, optimizer, objective.spec, 0)
    evaluate = make_evaluation(model, config.loss, True)
    feed = make_feeds(splits.train, 0, True, rows, 1)(0, 1)
    first = 0

    def steps(calls: int) -> tuple[float, float]:
        nonlocal state, first
        wall, cores = time.perf_counter(), time.process_time()
        previous = None
        for _ in range(calls):
            state, sums = program(state, *feed.call(first, PER_CALL), jnp.int32(PER_CALL))
            jax.device_get(previous)
            previous = sums
            first = (first + PER_CALL) % (feed.steps - PER_CALL)
        jax.device_get(previous)
        count = calls * PER_CALL
        return (time.perf_counter() - wall) / count, (time.process_time() - cores) / count

    steps(1)  # compiles
    evaluate(state.params, state.model, splits.test)
    return steps


@dataclass(frozen=True)
class Options(Typed):
    """The options of the program.

    Args:
        folder: of the array, which is made where it is not there
        gigabytes: its size
    """

    folder: str = "random_images"
    gigabytes: Positive = 4.0


def main(words: Sequence[str]) -> int:
    """Measures, prints the figures as JSON, and returns the exit status."""
    options = cli.read_all(Options, words)
    folder = Path(options.folder)
    write_array(folder, options.gigabytes)
    config = configuration.load(ROOT / "configs/mnist_cnn.py")
    data = ArrayFiles(f"{folder}/x.npy", f"{folder}/y.npy", image=True, shift=2, rotation=10.0, max_bytes=2**28)
    on_disk = data.load()
    disk = stepper(replace(config, data=data), on_disk)
    disk(2)
    memory = most_memory()
    rows = on_disk.train.take(np.arange(IN_MEMORY))
    held = stepper(config, replace(on_disk, train=Dataset(rows.x, rows.y)))
    times = [(disk(1), held(1)) for _ in range(4)]
    shortest = np.min(np.array(times), axis=0)  # [disk, memory] x [seconds, of all cores]
    figures = {
        "bytes on the disk": (folder / "x.npy").stat().st_size,
        "most resident bytes": memory,
        "milliseconds a step, from the disk and in memory": (shortest[:, 0] * 1e3).round(2).tolist(),
        "speed from the disk over speed in memory": round(float(shortest[1, 0] / shortest[0, 0]), 3),
        "milliseconds of all cores a step": (shortest[:, 1] * 1e3).round(2).tolist(),
        "load": Path("/proc/loadavg").read_text().split()[0],
    }
    print(json.dumps(figures | {"machine": provenance()}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
