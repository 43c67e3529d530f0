"""Cross-validation: one run a fold, each in a folder of its own, resumable like any run; then the scores of all."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from jaxbp.config import Config
from jaxbp.data import Tabular
from jaxbp.errors import InputError
from jaxbp.files import as_json, overwrite
from jaxbp.training.evaluate import make_prediction
from jaxbp.training.fold import Fold
from jaxbp.training.folder import RunFolder
from jaxbp.training.lock import locked
from jaxbp.training.loop import train
from jaxbp.training.report.scores import Classification, Regression, measure
from jaxbp.training.report.search import mean_and_deviation
from jaxbp.training.run import trained


def cross_validate(config: Config, path: str | Path, folds: int, fresh: bool = False) -> dict[str, float]:
    """Trains `folds` models, each tested on its own fold; -> mean and standard deviation of the models' test metrics.

    Scaling is fitted on each fold's training part. The folder gets cross_validation.json, with the metrics of all
    models, and scores.json, with the scores of all examples, each by the model that was not trained on it. Raises
    InputError for data that is no table, too many folds, or a folder with other folds, another run or files of others.
    """
    if not isinstance(config.data, Tabular):
        raise InputError(f"--folds needs data in one table, and {type(config.data).__name__} has its own test part")
    with locked(Path(path)):
        return all_folds(config, config.data, Path(path), folds, fresh)


def all_folds(config: Config, data: Tabular, path: Path, folds: int, fresh: bool) -> dict[str, float]:
    """What cross_validate does in a folder that no other process uses."""
    runs = sorted(file.parent for file in path.glob("fold_*/config.json"))  # there may have been more of them
    earlier = [RunFolder(folder) for folder in runs if re.fullmatch("fold_[0-9]{2,}", folder.name)]
    if not earlier and RunFolder(path).owner():
        raise InputError(f"{path} is the folder of a run, and folds need one of their own: --workdir=DIR")
    if fresh:
        for folder in earlier:
            with folder.locked():
                folder.clear()
            with suppress(OSError):  # other files are in it
                folder.path.rmdir()
    rows = []
    outputs = []
    targets = []
    for i, splits in enumerate(data.folds(folds, data.seed)):
        folder = RunFolder(path / f"fold_{i:02d}")
        print(f"fold {i + 1} of {folds}, in {folder.path}", flush=True)
        of_fold = replace(config, data=Fold(data, i, folds))
        rows.append(train(of_fold, folder.path, fresh, splits))
        run = trained(folder, of_fold)
        y = make_prediction(run.model)(run.params, run.state, splits.test.x)
        undo = splits.preparation.targets if splits.classes is None else np.asarray
        outputs.append(undo(config.loss.prediction(y)))
        targets.append(undo(splits.test.y))
    scores = measure(np.concatenate(outputs), np.concatenate(targets), config.loss, splits.classes)
    overwrite(path / "scores.json", as_json({"folds": asdict(scores)}))
    print(f"all {folds} folds, each by the model that was not trained on it:\n{shown(scores)}", flush=True)
    figures = mean_and_deviation(rows, ("test",))
    overwrite(path / "cross_validation.json", as_json(figures | {"folds": rows}))
    return figures


def shown(scores: Classification | Regression) -> str:
    """The scores as a person reads them: for classes the confusion matrix, then the accuracy with its interval."""
    return f"{scores.table()}\n{scores}" if isinstance(scores, Classification) else str(scores)
