"""Where the figures of a run go besides its folder: a writer takes them once an evaluation.

TensorBoard and Weights & Biases are the two there are. Another one is a class with the methods of `Writer`, and a line
in WRITERS. Both write below the run folder and use no network: `tensorboard --logdir=RUN/tensorboard` shows the one,
`wandb sync RUN/wandb/offline-*` sends the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jaxbp.config import Config, to_json


class Writer(Protocol):
    """Takes figures by name."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures after `step` steps, on the disk when it returns."""

    def close(self) -> None:
        """Nothing is written after it."""


class TensorBoard:
    """Event files in the folder tensorboard. Of an earlier session only what was before `step` is shown."""

    def __init__(self, config: Config, folder: Path, run: str, step: int) -> None:
        from tensorboardX import SummaryWriter

        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()

    def close(self) -> None:
        self.events.close()


class WeightsAndBiases:
    """An offline run in the folder wandb, with the config; sessions of one run have one id."""

    def __init__(self, config: Config, folder: Path, run: str, step: int) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        self.session = wandb.init(
            project="jaxbp", id=run, dir=folder, mode="offline", config=to_json(config), settings=settings
        )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self.session.log(dict(figures), step=step, commit=True)

    def close(self) -> None:
        self.session.finish()


MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # what each needs
WRITERS: dict[str, Callable[[Config, Path, str, int], Writer]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


@dataclass(frozen=True)
class Writers:
    """The writers of a run, as one."""

    writers: tuple[Writer, ...] = ()

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Gives all of them the numbers in a row of metrics; those inside a mapping as 'name/key'."""
        figures = dict(numbers(row))
        for writer in self.writers:
            writer.write(step, figures)

    def close(self) -> None:
        """Closes all of them."""
        for writer in self.writers:
            writer.close()


def make_writers(config: Config, folder: Path, run: str, step: int) -> Writers:
    """Those that run.writers names, for the session that goes on after `step` steps. run: its id.

    Raises ModuleNotFoundError where a library is missing.
    """
    return Writers(tuple(WRITERS[name](config, folder, run, step) for name in config.run.writers))


def numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of everything in a row that is one number."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
