"""The model of a run, as Python loads it, and what it predicts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbp.config import Config
from jaxbp.core import Layer, PyTree
from jaxbp.data import Splits
from jaxbp.data.preparation import Preparation
from jaxbp.errors import InputError
from jaxbp.training.checkpoint import load_arrays
from jaxbp.training.evaluate import make_prediction, predicted_class, probabilities
from jaxbp.training.folder import RunFolder
from jaxbp.training.settings import random_keys_of
from jaxbp.training.step import State, initial_state


class Prediction(NamedTuple):
    """What a model makes of N rows."""

    labels: np.ndarray | None  # [N] names of classes; None for regression
    probabilities: np.ndarray | None  # [N, classes], in the order of the run's classes; None where the loss makes none
    values: np.ndarray | None  # [N, O] in the targets' own units; None for classes


class Trained(NamedTuple):
    """A trained model."""

    model: Layer
    params: PyTree
    state: PyTree  # running statistics and the like, for Context(state=...)
    config: Config
    data: str  # fingerprint of the data that it was trained on
    classes: tuple[str, ...] | None  # names; None for regression
    preparation: Preparation | None  # of raw rows; None for a run of a version that did not keep it

    def predict(self, rows: Any) -> Prediction:
        """What the model makes of raw rows, such as the data set had them before scaling.

        rows: an array [N, ...]; for a table also a CSV or Parquet file, a pandas frame, or columns by name. The run's
        own preparation is applied to them, in batches of one compiled program, in evaluation. Raises InputError for
        rows that do not fit.
        """
        if self.preparation is None:
            raise InputError("the run has no preparation.json: the training command that made it adds one")
        x = self.preparation.apply(rows)
        y = make_prediction(self.model)(self.params, self.state, x)
        if self.classes is None:
            return Prediction(None, None, self.preparation.targets(self.config.loss.prediction(y)))
        labels = np.array(self.classes)[predicted_class(y, self.config.loss.threshold).astype(int)]
        return Prediction(labels, probabilities(y, self.config.loss), None)


def load(run: str | Path, code: bool = False, step: int | None = None) -> Trained:
    """The model of a run folder with the weights of its newest checkpoint; the best weights where the run stops early.

    code: run the files that the run has kept where its config needs classes of a user's own. They are code: only for
    run folders that you trust. step: that of an older checkpoint. Raises InputError where the folder holds no
    checkpoint, or a damaged one at that place, or needs `code`.
    """
    folder = RunFolder(Path(run))
    with folder.reading():
        path, facts = folder.newest(step)
        return _trained(folder, folder.config(code, facts), path, facts)


def trained(folder: RunFolder, config: Config) -> Trained:
    """The model of a run folder whose config is known. Raises InputError as `load` does."""
    return _trained(folder, config, *folder.newest())


def _trained(folder: RunFolder, config: Config, path: Path, facts: dict[str, Any]) -> Trained:
    """The model of the checkpoint in a folder, with these facts."""
    shape, dtype = facts["input"]
    model = config.build_model()
    spec = jax.ShapeDtypeStruct(tuple(shape), dtype)
    with random_keys_of(facts["machine"]):
        state = jax.eval_shape(lambda: initial_state(model, config.build_optimizer(1, spec), spec, 0, config.credit))
        arrays = load_arrays(path / "arrays", checkpointed(state, config))
    weights = arrays["best"] or arrays["state"].weights
    classes = None if facts["classes"] is None else tuple(facts["classes"])
    preparation = folder.preparation(facts)
    return Trained(model, weights["params"], weights["model"], config, facts["data"], classes, preparation)


def checkpointed(state: State, config: Config) -> PyTree:
    """The tree that a checkpoint holds: the state, and the best weights so far where the run stops early."""
    return {"state": state, "best": None if config.run.patience is None else state.weights}


def fingerprint(splits: Splits) -> str:
    """sha256 of the contents of all parts of the data, so that a run is not resumed on other data."""
    total = hashlib.sha256()
    for part in (splits.train, splits.validation, splits.test):
        for content in part.contents() if part is not None else ():
            total.update(content)
    return total.hexdigest()
