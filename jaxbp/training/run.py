"""The run folder: its files, whether a command may resume the run in it, and how Python loads the trained model.

config.json, preparation.json, code/ (files behind classes of one's own), provenance.json (one entry a session),
metrics.jsonl (no times), timing.jsonl, checkpoints/, curves.png.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbp.config import Config, from_json, to_json
from jaxbp.core import Layer, PyTree
from jaxbp.data import Splits
from jaxbp.data.preparation import Preparation
from jaxbp.errors import InputError
from jaxbp.files import refuse_address, write_json
from jaxbp.machine import machine, provenance
from jaxbp.training import own_code
from jaxbp.training.checkpoint import Checkpoints, digest, load_arrays
from jaxbp.training.evaluate import make_prediction, predicted_class, probabilities
from jaxbp.training.fold import Fold  # noqa: F401  JSON names it
from jaxbp.training.settings import check_random_keys, random_keys_of
from jaxbp.training.step import State, initial_state

OVER = "--fresh starts it over, --workdir=DIR puts this one elsewhere"  # what helps where a run cannot go on
MAY_CHANGE = (
    r"run\.(epochs|steps_per_call|checkpoint_seconds|keep_checkpoints|keep_programs)"
    r"|data\.(data\.)?(path|(train|test)_(images|labels))"
)
FILES = (
    "config.json",
    "preparation.json",
    "code",
    "provenance.json",
    "metrics.jsonl",
    "timing.jsonl",
    "curves.png",
    "checkpoints",
    "failure",
    "scores.json",
    "confusion.png",
    "calibration.png",
    "filters.png",
    "activations.png",
    "mistakes.png",
    "deltas.png",
    "sample.txt",
)


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
            return Prediction(None, None, self.preparation.targets(y))
        labels = np.array(self.classes)[predicted_class(y, self.config.loss.threshold).astype(int)]
        return Prediction(labels, probabilities(y, self.config.loss), None)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    def __post_init__(self) -> None:
        refuse_address(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def metrics(self) -> Path:
        """One JSON row an evaluation."""
        return self.path / "metrics.jsonl"

    def stored(self) -> dict[str, Any]:
        """config.json as plain data. Raises InputError where the folder holds none."""
        file = self.path / "config.json"
        if not file.is_file():
            folds = sorted(self.path.glob("fold_*/config.json"))
            hint = f"; the runs of its folds are {folds[0].parent} and so on" if folds else ""
            raise InputError(f"{self.path} is not a run folder: it has no config.json{hint}")
        data: dict[str, Any] = json.loads(file.read_text())
        return data

    def config(self, code: bool = False) -> Config:
        """The resolved config of the run; with `code` after the files in code/ were run, which define its classes.

        Raises InputError where the folder holds none, or one of classes that are not those of this process.
        """
        data = self.stored()
        kept = data.pop("code", {})
        if code:
            own_code.run_kept(self.path / "code", kept)
        try:
            config = from_json(data)
        except InputError as error:
            if code or not kept:
                raise
            raise self._needs_code(kept, "does not have them") from error
        if kept and set(own_code.digests(own_code.own_files(config)).values()) != set(kept.values()):
            raise self._needs_code(kept, "has them from other code")
        return config

    def _needs_code(self, kept: Iterable[str], but: str) -> InputError:
        files = ", ".join(str(self.path / "code" / name) for name in kept)
        return InputError(
            f"the run in {self.path} needs classes of your own, and this process {but}: jaxbp.load(run, code=True), in "
            f"a command --code, runs the code that the run has kept, {files}"
        )

    def clear(self) -> None:
        """Deletes the files of an earlier run."""
        for name in FILES:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def check(self, config: Config) -> None:
        """Raises InputError where the folder holds a run of a config that differs in other fields than MAY_CHANGE."""
        if not (self.path / "config.json").is_file():
            return
        stored = self.stored()
        kept = stored.pop("code", {})
        with contextlib.suppress(InputError):  # it may name classes that this process does not know
            stored = to_json(from_json(stored))
        changes = differences(stored, to_json(config))
        if refused := [text for key, text in changes.items() if not re.fullmatch(MAY_CHANGE, key)]:
            raise InputError(f"{self.path} holds a run of another config: {'; '.join(refused)} ({OVER})")
        if changes := differences(kept, own_code.digests(own_code.own_files(config))):
            texts = "; ".join(changes.values())
            raise InputError(f"{self.path} holds a run of another version of your code, {texts} ({OVER})")

    def write(self, config: Config, preparation: Preparation, metrics_bytes: int | None) -> None:
        """Writes what describes the run, and one more entry of provenance; cuts metrics.jsonl to so many bytes.

        None is the first session: it has no metrics.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        log = self.path / "provenance.json"
        sessions = [] if metrics_bytes is None or not log.is_file() else json.loads(log.read_text())
        write_json(log, [*sessions, provenance()])
        files = own_code.own_files(config)
        own_code.keep(files, self.path / "code")
        write_json(self.path / "preparation.json", preparation.to_json())
        write_json(self.path / "config.json", to_json(config) | ({"code": own_code.digests(files)} if files else {}))
        if metrics_bytes is None:
            self.metrics.write_bytes(b"")
        else:
            os.truncate(self.metrics, metrics_bytes)

    def resume(self, like: PyTree, data: str) -> tuple[PyTree, dict[str, Any]] | None:
        """(arrays, facts) of the newest valid checkpoint, or None.

        Raises InputError where the data is not the run's, or metrics.jsonl has lost rows.
        """
        if not (self.path / "config.json").is_file():
            return None
        for folder, facts in self.checkpoints.valid():
            if facts["data"] != data:
                raise InputError(f"the data differ from those that the run in {self.path} was made with")
            if changes := differences(facts["machine"], machine()):
                print(f"not bit-exact with the run so far, another machine or version: {'; '.join(changes.values())}")
            check_random_keys(facts["machine"])
            arrays = load_arrays(folder / "arrays", like)
            if not self.metrics.is_file() or self.metrics.stat().st_size < facts["metrics_bytes"]:
                raise InputError(f"{self.metrics} is shorter than the checkpoint of step {int(folder.name)} says")
            return arrays, facts
        return None

    def preparation_digest(self) -> str:
        """sha256 of preparation.json."""
        return digest(self.path / "preparation.json")

    def preparation(self, sha256: str | None) -> Preparation | None:
        """The preparation of the run's data; None where the checkpoint, of an older version, has no sha256 of it.

        Raises InputError where the file is not as it was written.
        """
        file = self.path / "preparation.json"
        if sha256 is None:
            return None
        if not file.is_file() or digest(file) != sha256:
            raise InputError(f"{file} is missing or damaged: the training command that made the run writes it again")
        return Preparation.from_json(json.loads(file.read_text()))


def load(run: str | Path, code: bool = False) -> Trained:
    """The model of a run folder with the weights of its newest checkpoint; the best weights where the run stops early.

    code: run the files that the run has kept where its config needs classes of a user's own. They are code: only for
    run folders that you trust. Raises InputError where the folder holds no valid checkpoint, or needs `code`.
    """
    folder = RunFolder(Path(run))
    return trained(folder, folder.config(code))


def trained(folder: RunFolder, config: Config) -> Trained:
    """The model of a run folder whose config is known. Raises InputError where it holds no valid checkpoint."""
    newest = next(folder.checkpoints.valid(), None)
    if newest is None:
        raise InputError(f"there is no valid checkpoint in {folder.path}")
    path, facts = newest
    shape, dtype = facts["input"]
    model = config.build_model()
    spec = jax.ShapeDtypeStruct(tuple(shape), dtype)
    with random_keys_of(facts["machine"]):
        state = jax.eval_shape(lambda: initial_state(model, config.build_optimizer(1, spec), spec, 0))
        arrays = load_arrays(path / "arrays", checkpointed(state, config))
    weights = arrays["best"] or arrays["state"].weights
    classes = None if facts["classes"] is None else tuple(facts["classes"])
    preparation = folder.preparation(facts.get("preparation"))
    return Trained(model, weights["params"], weights["model"], config, facts["data"], classes, preparation)


def checkpointed(state: State, config: Config) -> PyTree:
    """The tree that a checkpoint holds: the state, and the best weights so far where the run stops early."""
    return {"state": state, "best": None if config.run.patience is None else state.weights}


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """'run.seed' -> 'run.seed was 0 and is 1' for every leaf in which two nested mappings differ."""
    changes: dict[str, str] = {}
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}{key}"
        before = old.get(key)
        after = new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes |= differences(before, after, f"{path}.")
        elif json.dumps(before) != json.dumps(after):
            changes[path] = f"{path} was {before} and is {after}"
    return changes


def fingerprint(splits: Splits) -> str:
    """sha256 of all arrays of the data, so that a run is not resumed on other data."""
    total = hashlib.sha256()
    parts = [part for part in (splits.train, splits.validation, splits.test) if part is not None]
    for array in (array for part in parts for array in (part.x, part.y, part.mask) if array is not None):
        total.update(str((array.shape, array.dtype)).encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
