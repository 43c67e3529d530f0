"""Trains an experiment, or goes on with the run in its folder:

jaxbp train [FILE] [--workdir=DIR] [--config.KEY=VALUE ...]
jaxbp train digits_mlp --config.optimizer=SGD --config.optimizer.momentum=0.9 --config.model.hidden=64,32
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import jax

from jaxbp.commands import cli
from jaxbp.config import Config, to_json
from jaxbp.core import path_name
from jaxbp.data.outside import located
from jaxbp.devices.mesh import MeshShape
from jaxbp.devices.processes import ALONE, Team, from_environment, join
from jaxbp.errors import InputError
from jaxbp.machine import installed
from jaxbp.programs import keep_programs
from jaxbp.training.cross_validate import cross_validate
from jaxbp.training.loop import NotFinite, train
from jaxbp.training.report.curves import as_text
from jaxbp.training.writers import MODULES
from jaxbp.typed import Count, Range, Typed

PROCESSES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "WORLD_SIZE")
PROCESS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "RANK")


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        workdir: the run folder; a run in it is resumed. None: runs/NAME of the experiment, of folds runs/NAME_folds
        folds: cross-validate in this many folds, each a run of its own
        fresh: delete the run in the folder and start over
        coordinator: HOST:PORT at which process 0 listens for the others, where several processes train one run
        processes: how many they are; None: as many as SLURM, MPI or torchrun have started, else 1
        process: this one's number; None: theirs, else 0
    """

    config: str = "digits_mlp"
    workdir: str | None = None
    folds: Annotated[int, Range(2)] | None = None
    fresh: bool = False
    coordinator: str | None = None
    processes: Count | None = None
    process: Annotated[int, Range(0)] | None = None


def main(words: Sequence[str]) -> int:
    """Trains what the words say, and returns the exit status."""
    options, overrides = cli.read(Options, words)
    config = cli.override(cli.load(options.config), overrides, options)
    folder = located(options.workdir or f"runs/{Path(options.config).stem}{'_folds' if options.folds else ''}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--workdir: {folder} is a file, and must be a folder")
    if options.folds and options.coordinator:
        raise InputError("--folds trains in one process, and --coordinator is given")
    needed = ("jinja2", "matplotlib", "orbax", *(MODULES[name] for name in config.run.writers))
    for package in needed:  # imported late in a run: what is missing is told before it
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    keep_programs(config)
    try:
        if options.folds:
            return show_folds(cross_validate(config, folder, options.folds, options.fresh), options.folds)
        with team_of(config, options) as team, quiet(not team.first):
            row = train(config, folder, options.fresh, team=team)
        if not team.first:
            return 0
    except NotFinite as error:
        print(f"error: {error}")
        return 1
    print(f"run folder {folder}")
    name = "accuracy" if "test_accuracy" in row else "loss"
    print(f"test {name} {as_text(row[f'test_{name}'])}")
    return 0


def team_of(config: Config, options: Options) -> Team:
    """The processes that train the run, which meet here. Raises InputError where they do not fit together."""
    if options.coordinator is None:
        if options.processes is not None or options.process is not None:
            raise InputError("--processes and --process need --coordinator=HOST:PORT")
        return ALONE
    processes = options.processes or int(from_environment(PROCESSES) or 1)
    process = int(from_environment(PROCESS) or 0) if options.process is None else options.process
    if processes == 1:
        return ALONE
    if config.run.mesh == MeshShape():
        raise InputError(f"{processes} processes share no work without a mesh: --config.run.mesh.data=-1")
    keys = jax.tree_util.tree_leaves_with_path(to_json(config), is_leaf=lambda value: value is None)
    facts = {path_name(path).replace("/", "."): value for path, value in keys}
    facts |= {name: installed(name) for name in ("jaxbp", "jax", "jaxlib", "numpy", "optax")}
    return join(options.coordinator, processes, process, facts)


@contextmanager
def quiet(silent: bool) -> Iterator[None]:
    """Prints nothing inside, where it is silent."""
    with open(os.devnull, "w") as null, redirect_stdout(null) if silent else nullcontext():
        yield


def show_folds(figures: dict[str, float], folds: int) -> int:
    """Prints the mean over the folds, and returns the exit status."""
    name = "accuracy" if "test_accuracy_mean" in figures else "loss"
    mean = figures[f"test_{name}_mean"]
    deviation = figures[f"test_{name}_stdev"]
    spread = f"standard deviation {as_text(deviation)}"
    print(f"cross-validated {name} {as_text(mean)} (mean of {folds} folds, {spread})")
    return 0
