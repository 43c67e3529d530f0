"""Cross-validation: one run a fold, each in a folder of its own, resumable like any run."""

from __future__ import annotations

import statistics
from pathlib import Path

from jaxbp.config import Config
from jaxbp.data.prepare import Tabular
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.train.loop import train


def cross_validate(config: Config, path: Path, folds: int, fresh: bool = False) -> dict[str, float]:
    """Trains `folds` models, each tested on what it was not trained on; -> mean and deviation of their figures.

    Scaling is fitted on each fold's training part. Raises InputError for data that is no table, or too many folds.
    """
    if not isinstance(config.data, Tabular):
        raise InputError(f"--folds needs data in one table, and {type(config.data).__name__} has its own test part")
    splits = config.data.folds(folds, config.run.seed)
    rows = [train(config, path / f"fold_{i:02d}", fresh, part) for i, part in enumerate(splits)]
    figures = {name: [row[name] for row in rows] for name in rows[0] if name.startswith("test_")}
    found = {
        f"{name}_{kind.__name__}": kind(values)
        for name, values in figures.items()
        for kind in (statistics.mean, statistics.stdev)
    }
    write_json(path / "cross_validation.json", found | {"folds": rows})
    return found
