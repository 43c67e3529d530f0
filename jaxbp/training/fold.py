"""One fold of a table as the data of a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import jax

from jaxbp.data import DataConfig, Splits, Tabular
from jaxbp.errors import InputError
from jaxbp.typed import Range


@dataclass(frozen=True)
class Fold(DataConfig):
    """A table with one of its folds as the test part, and the others for training.

    Args:
        data: the table; its seed decides the folds, and its test_fraction is ignored
        index: of the fold, from 0
        folds: how many there are
    """

    data: Tabular
    index: Annotated[int, Range(0)]
    folds: Annotated[int, Range(2)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.index >= self.folds:
            raise InputError(f"Fold: index must be below folds={self.folds}, got {self.index}")

    def load(self) -> Splits:
        return next(islice(self.data.folds(self.folds, self.data.seed), self.index, None))

    def augment(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.data.augment(key, x)
