"""A few examples, written out in the config."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Rows(DataConfig):
    """x [N, features] and y [N, outputs] as they stand, or y [N] labels 0, 1, ... where there are classes.

    All rows are in the training part and in the test part. Numbers keep all their digits where JAX computes in float64,
    as `jaxbp trace` does.

    Args:
        x: inputs, row by row; on the command line with semicolons between the rows
        y: targets, row by row; labels in a row of one for each example where there are classes
        classes: names of the classes; empty: the targets are numbers
    """

    x: tuple[tuple[float, ...], ...]
    y: tuple[tuple[float, ...], ...]
    classes: tuple[str, ...] = ()

    def load(self) -> Splits:
        x, y = self._matrix("x"), self._matrix("y")
        if self.classes:
            if y.shape[1] != 1 or (y != y.astype(int)).any():
                raise InputError("Rows: y must have one label 0, 1, ... in each row where there are classes")
            y = y[:, 0].astype(np.int32)
        part = Dataset(x, y)
        return Splits(part, None, part, self.classes or None)

    def _matrix(self, key: str) -> np.ndarray:
        rows = getattr(self, key)
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1:
            raise InputError(f"Rows: the rows of {key} must be equally long, got lengths {lengths}")
        return np.array(rows, jax.dtypes.canonicalize_dtype(float))
