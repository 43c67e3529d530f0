"""Training labels of which some are wrong, and test labels that are right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import jax
import numpy as np

from jaxbp.data.pipeline import DataConfig, Splits
from jaxbp.errors import InputError
from jaxbp.typed import Range, Seed


@dataclass(frozen=True)
class WrongLabels(DataConfig):
    """Data of classes, where a share of the training labels is another class, each of the others with the same chance.

    Args:
        data: the data set; its labels are integers [N]
        share: of the training examples, rounded to whole ones
        seed: seed of the choice
    """

    data: DataConfig
    share: Annotated[float, Range(0, 1)]
    seed: Seed = 0

    def load(self) -> Splits:
        splits = self.data.load()
        if splits.classes is None or splits.train.y.ndim != 1:
            raise InputError("WrongLabels: data must have classes, and an integer label for each example")
        if len(splits.classes) < 2:
            raise InputError(f"WrongLabels: data must have at least two classes, got {', '.join(splits.classes)} alone")
        rng = np.random.default_rng(self.seed)
        rows = rng.permutation(len(splits.train))[: round(self.share * len(splits.train))]
        y = splits.train.y.copy()
        y[rows] = (y[rows] + rng.integers(1, len(splits.classes), len(rows))) % len(splits.classes)
        return replace(splits, train=replace(splits.train, y=y))

    def augment(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.data.augment(key, x)
