"""The run folder: its files, whether a command may resume the run in it, and how Python loads the trained model.

config.json, provenance.json (one entry a session), metrics.jsonl (no times), timing.jsonl, checkpoints/, curves.png.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbp.config import Config, from_json, to_json
from jaxbp.core import Layer, PyTree
from jaxbp.data import Splits
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.machine import machine, provenance
from jaxbp.train.checkpoint import Checkpoints, load_arrays
from jaxbp.train.step import initial_state

MAY_CHANGE = (
    r"run\.(epochs|steps_per_call|checkpoint_seconds|keep_checkpoints)|data\.(path|(train|test)_(images|labels))"
)
FILES = (
    "config.json",
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


class Loaded(NamedTuple):
    """A trained model."""

    model: Layer
    params: PyTree
    state: PyTree  # running statistics and the like, for Context(state=...)
    config: Config
    data: str  # fingerprint of the data that it was trained on
    classes: tuple[str, ...] | None  # names; None for regression


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints, of which as many stay as its config says."""
        return Checkpoints(self.path / "checkpoints", self.config().run.keep_checkpoints)

    @property
    def metrics(self) -> Path:
        """One JSON row an evaluation."""
        return self.path / "metrics.jsonl"

    def config(self) -> Config:
        """The resolved config of the run. Raises InputError where the folder holds none."""
        file = self.path / "config.json"
        if not file.is_file():
            raise InputError(f"{self.path} is not a run folder: it has no config.json")
        return from_json(json.loads(file.read_text()))

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
        if (self.path / "config.json").is_file():
            changes = differences(to_json(self.config()), to_json(config))
            refused = [text for key, text in changes.items() if not re.fullmatch(MAY_CHANGE, key)]
            if refused:
                raise InputError(
                    f"{self.path} holds a run of another config: {'; '.join(refused)} "
                    "(--fresh starts it over, --workdir=DIR puts this one elsewhere)"
                )

    def write(self, config: Config, first: bool) -> None:
        """Writes the config and one more entry of provenance. The `first` session also empties the metrics."""
        self.path.mkdir(parents=True, exist_ok=True)
        log = self.path / "provenance.json"
        sessions = [] if first or not log.is_file() else json.loads(log.read_text())
        write_json(log, [*sessions, provenance()])
        write_json(self.path / "config.json", to_json(config))
        if first:
            self.metrics.write_bytes(b"")

    def resume(self, like: PyTree, data: str) -> tuple[PyTree, dict[str, Any]] | None:
        """(arrays, facts) of the newest valid checkpoint, or None; metrics.jsonl is cut to that checkpoint's length.

        Raises InputError where the data is not the run's, or metrics.jsonl has lost rows.
        """
        if not (self.path / "config.json").is_file():
            return None
        for folder, facts in self.checkpoints.valid():
            if facts["data"] != data:
                raise InputError(f"the data differ from those that the run in {self.path} was made with")
            if changes := differences(facts["machine"], machine()):
                print(f"not bit-exact with the run so far, another machine or version: {'; '.join(changes.values())}")
            arrays = load_arrays(folder / "arrays", like)
            if not self.metrics.is_file() or self.metrics.stat().st_size < facts["metrics_bytes"]:
                raise InputError(f"{self.metrics} is shorter than the checkpoint of step {int(folder.name)} says")
            os.truncate(self.metrics, facts["metrics_bytes"])
            return arrays, facts
        return None


def load(run: str | Path) -> Loaded:
    """The model of a run folder with the weights of its newest checkpoint; the best weights where the run stops early.

    Raises InputError where the folder holds no valid checkpoint.
    """
    folder = RunFolder(Path(run))
    config = folder.config()
    newest = next(folder.checkpoints.valid(), None)
    if newest is None:
        raise InputError(f"there is no valid checkpoint in {folder.path}")
    path, facts = newest
    shape, dtype = facts["input"]
    model = config.model.build()
    spec = jax.ShapeDtypeStruct(tuple(shape), dtype)
    state = jax.eval_shape(lambda: initial_state(model, config.build_optimizer(1, spec), spec, 0))
    arrays = load_arrays(path / "arrays", checkpointed(state, config))
    weights = arrays["best"] or {"params": arrays["state"].params, "model": arrays["state"].model}
    classes = None if facts["classes"] is None else tuple(facts["classes"])
    return Loaded(model, weights["params"], weights["model"], config, facts["data"], classes)


def checkpointed(state: PyTree, config: Config) -> PyTree:
    """The tree that a checkpoint holds: the state, and the best weights so far where the run stops early."""
    best = None if config.run.patience is None else {"params": state.params, "model": state.model}
    return {"state": state, "best": best}


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
