"""Trains an experiment with all combinations of some keys' values, and with several seeds:

jaxbp search [FILE] --grid KEY=VALUE,VALUE... [--grid KEY=...] [--seeds=N] [--config.KEY=VALUE ...]
jaxbp search digits_mlp --grid optimizer.learning_rate=1e-3,3e-3,1e-2 --grid model.dropout=0.1,0.3 --seeds=5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.data.outside import located
from jaxbp.errors import InputError
from jaxbp.programs import keep_programs
from jaxbp.training.search import search
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        config: the experiment: a file with get_config(), or digits_mlp or xor
        grid: KEY=VALUE,VALUE for a key of the config and its values; given once for each key. Values that hold commas
            themselves stand between semicolons: 'model.hidden=64;64,32'. None: only seeds
        seeds: runs of each combination, with the config's run.seed and the seeds after it
        workdir: the folder of the search, in which runs that are there are not made again. None: runs/NAME_search
        at_once: most runs in one program; 1 makes them one after another
        fresh: forget the runs in the folder
    """

    config: str = "digits_mlp"
    grid: str | None = None
    seeds: Count = 1
    workdir: str | None = None
    at_once: Count = 16
    fresh: bool = False


def main(words: Sequence[str]) -> int:
    """Searches what the words say, and returns the exit status: 1 where no combination ended well."""
    options, overrides = cli.read(Options, grids_as_one(words))
    config = cli.override(cli.load(options.config), overrides, options)
    folder = located(options.workdir or f"runs/{Path(options.config).stem}_search")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--workdir: {folder} is a file, and must be a folder")
    keep_programs(config)
    ranking = search(config, folder, read_grid(options.grid or ""), options.seeds, options.at_once, options.fresh)
    print(f"folder {folder}")
    return 0 if ranking[0].figures else 1


def grids_as_one(words: Sequence[str]) -> list[str]:
    """The words with all values of --grid in one of them, between line breaks."""
    others = []
    grids = []
    left = iter(words)
    for word in left:
        option, equals, text = word.partition("=")
        if option != "--grid":
            others.append(word)
            continue
        value = text if equals else next(left, "--")
        if value.startswith("--"):
            raise InputError("--grid needs a value: --grid=VALUE")
        grids.append(value)
    return [*others, *(["--grid=" + "\n".join(grids)] if grids else [])]


def read_grid(text: str) -> dict[str, list[str]]:
    """Key -> values, from lines such as 'optimizer.learning_rate=1e-3,1e-2'."""
    grid: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, values = line.partition("=")
        key = key.removeprefix("--config.")
        if not equals or not key or not values:
            raise InputError(f"--grid must be KEY=VALUE,VALUE, got '{line}'")
        if key in grid:
            raise InputError(f"--grid {key} is given twice")
        grid[key] = [value.strip() for value in values.split(";" if ";" in values else ",")]
    return grid
