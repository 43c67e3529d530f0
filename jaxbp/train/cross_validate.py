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
    """Trains `folds` models, each tested on its own fold; -> mean and standard deviation of the models' test metrics.

    Scaling is fitted on each fold's training part. Raises InputError for data that is no table, or too many folds.
    """
    if not isinstance(config.data, Tabular):
        raise InputError(f"--folds needs data in one table, and {type(config.data).__name__} has its own test part")
    all_splits = config.data.folds(folds, config.run.seed)
    rows = [train(config, path / f"fold_{i:02d}", fresh, splits) for i, splits in enumerate(all_splits)]
    figures = {}
    for name in rows[0]:
        if name.startswith("test_"):
            values = [row[name] for row in rows]
            figures[f"{name}_mean"] = statistics.mean(values)
            figures[f"{name}_stdev"] = statistics.stdev(values)
    write_json(path / "cross_validation.json", figures | {"folds": rows})
    return figures
