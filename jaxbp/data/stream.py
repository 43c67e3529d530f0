"""A part of the data that stays on the disk: rows are read when they are asked for, in an order that is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxbp.data.permutation import permuted
from jaxbp.data.pipeline import Dataset


class Rows(Protocol):
    """Rows that are read when they are asked for, like an array [N, ...]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]."""

    @property
    def dtype(self) -> np.dtype:
        """Of a row."""

    def __len__(self) -> int:
        """N."""

    @property
    def size(self) -> int:
        """Numbers in all rows."""

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """These rows, in memory."""

    def pieces(self) -> Iterator[bytes]:
        """What tells these rows from others."""


@dataclass(frozen=True, eq=False)
class Stream(Dataset):
    """The rows `x` and `y`, of which `epoch` make an epoch of a run; the next epoch goes on where one ends.

    A pass takes every row once, in an order of its own. Every row counts, and where `steps` every time step of it, each
    by itself. Rows that take at most `resident` bytes lie on the device in training; others are read as it goes on.
    """

    x: Any  # Rows
    y: Any
    epoch: int = 1
    steps: bool = True
    resident: int = 0

    def __len__(self) -> int:
        return self.epoch

    @property
    def fits(self) -> bool:
        """Whether the rows lie on the device in training."""
        return sum(rows.size * rows.dtype.itemsize for rows in (self.x, self.y)) <= self.resident

    def read(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """x and y of these rows, in memory. Threads may call it at once."""
        return self.x[rows], self.y[rows]

    def take(self, rows: np.ndarray | slice) -> Dataset:
        x, y = self.read(rows)
        return Dataset(x, y, np.ones(y.shape, np.float32) if self.steps else None)

    def counting(self) -> np.ndarray:
        return np.broadcast_to(np.float32(1), self.y.shape if self.steps else self.y.shape[:1])  # takes no memory

    def rows(self, places: np.ndarray, seed: int, shuffle: bool) -> np.ndarray:
        """Row numbers [...] int64 at these places of the run's stream of rows; int64 [...], in file order if not
        `shuffle`. It takes the same time at any place, so a resumed run need not go through what came before."""
        passes, rows = np.divmod(places, len(self.x))
        if shuffle:
            for number in np.unique(passes).tolist():
                inside = passes == number
                rows[inside] = permuted(rows[inside], len(self.x), seed, number)
        return rows

    def check_values(self, where: str) -> None:
        """Nothing: whoever reads rows looks at their values."""

    def check_labels(self, where: str, classes: int) -> None:
        """Nothing: whoever reads rows looks at their labels."""

    def contents(self) -> Iterator[bytes | memoryview]:
        for rows in (self.x, self.y):
            yield str((self.epoch, rows.shape, rows.dtype)).encode()
            yield from rows.pieces()
