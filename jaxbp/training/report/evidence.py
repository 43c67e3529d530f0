"""What the report of a run judges: its rows of metrics and of health, its config, and facts about its data."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxbp.data import Dataset, Splits, epoch_order
from jaxbp.data.stream import Stream
from jaxbp.training.logs import HEALTH, METRICS
from jaxbp.training.report.curves import read_metrics
from jaxbp.training.report.records import is_look, records

GROUP = 32  # examples at least that are compared with all others
Line = dict[str, Any]  # of health.jsonl


@dataclass(frozen=True)
class DataFacts:
    """What can be told of data without a model; None where it cannot."""

    mixing: float | None  # variance of the targets' means between groups of an epoch, over that of random groups: 1
    mixing_errors: float | None  # by how many standard errors it is above 1
    shared: int  # test rows that are training rows too
    tests: int  # test rows
    twins: float  # share of the training rows that occur there twice: test rows of the same kind would do so as often

    @classmethod
    def of(cls, splits: Splits, batch_size: int, seed: int, shuffle: bool) -> DataFacts | None:
        """The facts of a run's data; None for a stream, which is not read as a whole."""
        if isinstance(splits.train, Stream):
            return None
        train, test = row_hashes(splits.train), row_hashes(splits.test)
        known, counts = np.unique(train, return_counts=True)
        same = len(train) == len(test) and bool((np.sort(train) == np.sort(test)).all())  # a truth table
        shared = 0 if same else int(np.isin(test, known).sum())
        twins = float(counts[counts > 1].sum() / len(train))
        return cls(*mixing(splits.train, batch_size, seed, shuffle), shared, len(test), twins)


def row_hashes(part: Dataset) -> np.ndarray:
    """[N]: a number for every input, the same for the same input."""
    rows = np.ascontiguousarray(part.x).reshape(len(part), -1)
    return np.array([hash(row.tobytes()) for row in rows])


def mixing(part: Dataset, batch_size: int, seed: int, shuffle: bool) -> tuple[float | None, float | None]:
    """The spread of the targets between the groups of the first epoch, over what random groups have; and its errors.

    A group is as many batches as hold GROUP examples. With G groups of m of N examples, sum_g m (mean_g - mean)^2 of
    one target is (G - 1) times its variance on average. None where there are less than four groups, and for targets
    with a time axis, whose order may matter.
    """
    if part.mask is not None or part.y.ndim > 2:
        return None, None
    y = np.eye(int(part.y.max()) + 1)[part.y] if part.y.ndim == 1 else np.asarray(part.y, np.float64)
    order = epoch_order(seed, 0, len(part), batch_size, shuffle)[0].ravel()[: len(part)]
    size = batch_size * -(-GROUP // batch_size)
    groups = len(part) // size
    varying = y[:, y.std(0) > 0]
    if groups < 4 or not varying.shape[1]:
        return None, None
    means = varying[order[: groups * size]].reshape(groups, size, -1).mean(1)
    between = size * ((means - means.mean(0)) ** 2).sum(0) / (groups - 1)  # [O]
    ratio = float(np.mean(between / varying.var(0)))
    return ratio, (ratio - 1) * float(np.sqrt((groups - 1) / 2))


@dataclass(frozen=True)
class Evidence:
    """All that the rules look at."""

    rows: list[dict[str, Any]]  # of metrics.jsonl
    health: list[Line]  # of health.jsonl
    config: dict[str, Any]
    stopped: str = ""  # what was not finite first, where the run stopped at that
    data: DataFacts | None = None
    scores: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    # part -> (examples, errors, errors of the half that the model is surest of), of a finished model

    @classmethod
    def of(cls, folder: Path, config: dict[str, Any], data: DataFacts | None = None) -> Evidence:
        """What the folder of a run holds. A line that is damaged ends its file."""
        rows = read_metrics(folder / METRICS) if (folder / METRICS).is_file() else []
        health = records(folder / HEALTH, is_look) if (folder / HEALTH).is_file() else []
        stopped = ""
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            facts = json.loads((folder / "failure/facts.json").read_text())
            if not rows or facts["step"] >= rows[-1]["step"]:  # else the run has gone on since
                stopped = str(facts["first"])
        return cls(rows, health, config, stopped, data)

    @cached_property
    def steps(self) -> list[int]:
        """Of the lines of health."""
        return [line["step"] for line in self.health]

    @cached_property
    def losses(self) -> np.ndarray:
        """Of the probe; inf where it was not finite."""
        return np.array([np.inf if line["loss"] is None else line["loss"] for line in self.health])

    @cached_property
    def layers(self) -> list[str]:
        """The paths of the layers in the order of the forward pass, as the first line of health has them."""
        return list(self.health[0]["layers"]) if self.health else []

    def table(self, name: str) -> tuple[list[str], np.ndarray]:
        """(paths of the layers that have a figure, [layers, lines]); nan where it is not known."""
        paths = [path for path in self.layers if name in self.health[0]["layers"][path]]
        table = [[line["layers"].get(path, {}).get(name) for line in self.health] for path in paths]
        return paths, np.array(table, float).reshape(len(paths), len(self.health))

    def figures(self, name: str) -> np.ndarray:
        """[lines] of a figure of the whole model; nan where it is not known."""
        return np.array([line.get(name) for line in self.health], float)

    @cached_property
    def ratio(self) -> np.ndarray:
        """[lines]: |update| / |weight| of all parameters together."""
        squared = [np.nansum(self.table(name)[1] ** 2, 0) for name in ("update", "weight")]
        return np.sqrt(squared[0] / np.maximum(squared[1], np.finfo(float).tiny))
