"""Data beyond memory: examples by their number, read when they are asked for.

A source is a pure function from a number to an example. Which examples a step sees is computed from run.seed, the pass
and the place (jaxbp/data/permutation.py), so no reader has a state, and a run that is resumed reads nothing twice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxbp.data.from_files import FromFiles
from jaxbp.data.permutation import permuted
from jaxbp.data.pipeline import Dataset, Splits
from jaxbp.data.preparation import Numbers, Preparation
from jaxbp.data.stream import Stream
from jaxbp.errors import InputError
from jaxbp.typed import Count, Fraction, Seed, Share

PARTS = 0x9A275  # part of the key of the order that draws parts, apart from those of the passes


@dataclass(frozen=True)
class Row:
    """What the rows of an array [N, *shape] are."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Source(Protocol):
    """Examples by their number."""

    @property
    def x(self) -> Row:
        """What a row of inputs is: float32."""

    @property
    def y(self) -> Row:
        """What a row of targets is: a class number, () int32, or [O] float32."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [n, ...] and y [n, ...] of these examples. Threads may call it at once. Raises InputError for an example
        that cannot be read or does not fit."""

    def pieces(self) -> Iterator[bytes]:
        """What tells this source from others."""


@dataclass(frozen=True)
class Drawn:
    """The examples `first` ... `last` - 1 of a source, in the order of `seed`, which no pass has."""

    source: Source
    first: int
    last: int
    seed: int

    @property
    def x(self) -> Row:
        """As in the source."""
        return self.source.x

    @property
    def y(self) -> Row:
        """As in the source."""
        return self.source.y

    def __len__(self) -> int:
        return self.last - self.first

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the source in their drawn order."""
        return self.source.read(permuted(rows + self.first, len(self.source), self.seed, PARTS))

    def pieces(self) -> Iterator[bytes]:
        """Those of the source, and which examples are drawn."""
        yield str((self.first, self.last, self.seed)).encode()
        yield from self.source.pieces()


@dataclass(frozen=True)
class Column:
    """The x (place 0) or the y (place 1) of a source's examples, like an array."""

    source: Source
    place: int

    @property
    def row(self) -> Row:
        """What a row is."""
        return (self.source.x, self.source.y)[self.place]

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]."""
        return len(self.source), *self.row.shape

    @property
    def dtype(self) -> np.dtype:
        """Of a row."""
        return self.row.dtype

    @property
    def size(self) -> int:
        """Numbers in all rows."""
        return int(np.prod(self.shape, dtype=object))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """These rows, in memory."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        return self.source.read(np.asarray(rows))[self.place]

    def pieces(self) -> Iterator[bytes]:
        """Those of the source, once for both places."""
        yield from self.source.pieces() if self.place == 0 else ()


@dataclass(frozen=True, eq=False)
class SourceStream(Stream):
    """The examples of a source, x and y read together."""

    @classmethod
    def of(cls, source: Source, resident: int) -> SourceStream:
        """All examples, a pass an epoch."""
        return cls(Column(source, 0), Column(source, 1), epoch=len(source), steps=False, resident=resident)

    def read(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(self.x))[rows] if isinstance(rows, slice) else rows
        x, y = self.x.source.read(np.asarray(rows))
        return x, y


@dataclass(frozen=True, kw_only=True)
class Streamed(FromFiles):
    """Keys of data that are read as training goes on. A training part that takes at most half of `max_bytes` once it is
    prepared lies on the device instead: the batches are the same, to the bit.

    Args:
        test_fraction: fraction of the examples that is drawn for the test part, where it has no place of its own
        validation_fraction: fraction of the examples that is drawn for the validation part; 0: there is none
        held_examples: most examples of the test part, and of the validation part; they are held in memory
        seed: seed of what is drawn
    """

    test_fraction: Share = 0.1
    validation_fraction: Fraction = 0.0
    held_examples: Count = 10_000
    seed: Seed = 0

    def load(self) -> Splits:
        train, classes, raw = self.source()
        test = self.test_source()
        count = len(train)
        held = lambda fraction: min(round(fraction * count), self.held_examples)
        tests = 0 if test else max(held(self.test_fraction), 1)
        validations = held(self.validation_fraction)
        if tests + validations >= count or (self.validation_fraction and not validations):
            raise InputError(f"{count} examples leave a part without any: there are {tests} for the test")
        drawn = lambda first, last: Drawn(train, first, last, self.seed)
        return Splits(
            SourceStream.of(
                drawn(tests + validations, count) if tests + validations else train, self.allowance().size // 2
            ),
            in_memory(drawn(tests, tests + validations), validations) if validations else None,
            in_memory(test or drawn(0, tests), self.held_examples),
            classes,
            Preparation(raw, classes=classes),
        )

    @abstractmethod
    def source(self) -> tuple[Source, tuple[str, ...] | None, Numbers]:
        """The training examples, the names of the classes (None for regression), and what a raw row is."""
        raise NotImplementedError

    @abstractmethod
    def test_source(self) -> Source | None:
        """The test examples; None where they are drawn."""
        raise NotImplementedError


def in_memory(source: Source, most: int) -> Dataset:
    """Evenly spaced examples, at most so many, in memory."""
    count = min(len(source), most)
    return Dataset(*source.read(np.arange(count) * len(source) // count))
