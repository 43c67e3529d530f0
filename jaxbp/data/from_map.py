"""Examples from any map of numbers to examples: grain's MapDataset, a Hugging Face dataset, a list, your own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxbp.data.checks import to_float32
from jaxbp.data.preparation import Numbers
from jaxbp.data.sources import Row, Streamed
from jaxbp.errors import InputError
from jaxbp.typed import Count

SAMPLED = 64  # examples in a fingerprint
LONGEST = 2**40  # examples: who has more repeats them


class Map(Protocol):
    """A pure function from the numbers 0 ... len - 1 to examples: the same number is always the same example."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class FromMap(Streamed):
    """The base of data that are maps from a number to an example, such as grain's MapDataset. An example is a mapping
    with "x" and "y", or a pair (x, y): x an array of numbers, all of one shape, whose unsigned bytes become 0..1; y a
    class number where `class_count` is set, else a number or an array of them.

    Orders, passes and batches are the run's own: a MapDataset comes without shuffle(), repeat() and batch(). Threads
    read examples at once.

    Args:
        class_count: number of classes; None: targets of a regression
    """

    class_count: Count | None = None

    @abstractmethod
    def examples(self) -> Map:
        """The training examples."""
        raise NotImplementedError

    def test_examples(self) -> Map | None:
        """The test examples; None: they are drawn."""
        return None

    def source(self) -> tuple[MapSource, tuple[str, ...] | None, Numbers]:
        source = MapSource.of(self.examples(), self.class_count)
        return source, None if self.class_count is None else tuple(map(str, range(self.class_count))), source.raw

    def test_source(self) -> MapSource | None:
        examples = self.test_examples()
        return None if examples is None else MapSource.of(examples, self.class_count)


@dataclass(frozen=True)
class MapSource:
    """The examples of a map.

    class_count: None for regression. targets: numbers in a target of a regression.
    """

    examples: Map
    count: int
    class_count: int | None
    raw: Numbers
    targets: int

    @classmethod
    def of(cls, examples: Map, class_count: int | None) -> MapSource:
        """The source of a map, of which the first example is read. Raises InputError for what is no such map."""
        try:
            count = len(examples)
        except TypeError as error:
            name = type(examples).__name__
            raise InputError(f"a source needs len() and [number], and {name} has not both") from error
        if not 1 <= count < LONGEST:
            raise InputError(f"a source of {count} examples: it needs one or more, and a run repeats them by itself")
        x, y = parts(examples, 0)
        return cls(examples, count, class_count, Numbers(x.shape, x.dtype.name, pixels=x.dtype == np.uint8), y.size)

    @property
    def x(self) -> Row:
        """float32."""
        return Row(self.raw.shape, np.dtype(np.float32))

    @property
    def y(self) -> Row:
        """Class numbers, or numbers."""
        return Row((), np.dtype(np.int32)) if self.class_count else Row((self.targets,), np.dtype(np.float32))

    def __len__(self) -> int:
        return self.count

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of these examples. Raises InputError for one that does not fit."""
        x = np.empty((len(rows), *self.raw.shape), self.raw.dtype)
        y = np.empty((len(rows), *self.y.shape), self.y.dtype)
        for place, row in enumerate(rows.tolist()):
            inputs, target = parts(self.examples, row)
            if inputs.shape != self.raw.shape or inputs.dtype.name != self.raw.dtype:
                raise InputError(
                    f"example {row}: x is {inputs.dtype} {list(inputs.shape)}, and in example 0 it is "
                    f"{self.raw.dtype} {list(self.raw.shape)}"
                )
            x[place] = inputs
            y[place] = self._target(row, target)
        prepared = to_float32(self.raw.encode(x))
        for name, values in (("x", prepared), ("y", y)):
            if not np.isfinite(values).all():
                row = rows[~np.isfinite(values).reshape(len(rows), -1).all(1)][0]
                raise InputError(f"example {row}: {name} holds a value that is not finite")
        return prepared, y

    def _target(self, row: int, target: np.ndarray) -> np.ndarray:
        """The target of an example as the run takes it."""
        if self.class_count is None:
            if target.size != self.targets:
                raise InputError(f"example {row}: y has {target.size} numbers, and in example 0 it has {self.targets}")
            return target.reshape(self.targets)
        if target.dtype.kind not in "iu" or target.size != 1 or not 0 <= target.item() < self.class_count:
            raise InputError(f"example {row}: y must be a class in 0..{self.class_count - 1}, got {target.tolist()}")
        return target.reshape(())

    def pieces(self) -> Iterator[bytes]:
        """The number of examples, and some of them."""
        yield str((self.count, self.class_count, self.raw)).encode()
        for array in self.read(np.unique(np.linspace(0, self.count - 1, SAMPLED).astype(np.int64))):
            yield array.tobytes()


def parts(examples: Map, row: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of an example, as arrays of numbers. Raises InputError where it is no example."""
    try:
        example = examples[row]
        x, y = (example["x"], example["y"]) if isinstance(example, Mapping) else example
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"example {row} cannot be read as x and y ({type(error).__name__}: {error})") from error
    arrays = np.asarray(x), np.asarray(y)
    for name, array in zip("xy", arrays, strict=True):
        if array.dtype.kind not in "fiub":
            raise InputError(f"example {row}: {name} must be an array of numbers, got {type((x, y)[name == 'y'])}")
    return arrays
