"""Trains an experiment, or goes on with the run in its folder:

jaxbp train [FILE] [--workdir=DIR] [--config.KEY=VALUE ...]
jaxbp train digits_mlp --config.optimizer=SGD --config.optimizer.momentum=0.9 --config.model.hidden=64,32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from jaxbp.commands import cli
from jaxbp.data.outside import located
from jaxbp.errors import InputError
from jaxbp.programs import keep_programs
from jaxbp.training.cross_validate import cross_validate
from jaxbp.training.loop import NotFinite, train
from jaxbp.training.report.curves import as_text
from jaxbp.training.writers import MODULES
from jaxbp.typed import Range, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        workdir: the run folder; a run in it is resumed. None: runs/NAME of the experiment, of folds runs/NAME_folds
        folds: cross-validate in this many folds, each a run of its own
        fresh: delete the run in the folder and start over
    """

    config: str = "digits_mlp"
    workdir: str | None = None
    folds: Annotated[int, Range(2)] | None = None
    fresh: bool = False


def main(words: Sequence[str]) -> int:
    """Trains what the words say, and returns the exit status."""
    options, overrides = cli.read(Options, words)
    config = cli.override(cli.load(options.config), overrides, options)
    folder = located(options.workdir or f"runs/{Path(options.config).stem}{'_folds' if options.folds else ''}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--workdir: {folder} is a file, and must be a folder")
    for package in (
        "matplotlib",
        "orbax",
        *(MODULES[name] for name in config.run.writers),
    ):  # imported late in a run: what is missing is told before it
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    keep_programs(config)
    try:
        if options.folds:
            return show_folds(cross_validate(config, folder, options.folds, options.fresh), options.folds)
        row = train(config, folder, options.fresh)
    except NotFinite as error:
        print(f"error: {error}")
        return 1
    print(f"run folder {folder}")
    name = "accuracy" if "test_accuracy" in row else "loss"
    print(f"test {name} {as_text(row[f'test_{name}'])}")
    return 0


def show_folds(figures: dict[str, float], folds: int) -> int:
    """Prints the mean over the folds, and returns the exit status."""
    name = "accuracy" if "test_accuracy_mean" in figures else "loss"
    mean = figures[f"test_{name}_mean"]
    deviation = figures[f"test_{name}_stdev"]
    spread = f"standard deviation {as_text(deviation)}"
    print(f"cross-validated {name} {as_text(mean)} (mean of {folds} folds, {spread})")
    return 0
