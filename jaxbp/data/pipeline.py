"""What training knows of a data set: its parts in host memory, the config that loads them, the order of an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np

from jaxbp.data.checks import check_finite
from jaxbp.data.preparation import Ids, Numbers, Preparation
from jaxbp.errors import InputError
from jaxbp.typed import Typed


@dataclass(frozen=True, eq=False)
class Dataset:
    """One part of the data, in host memory."""

    x: np.ndarray  # [N, ...] float32, or an integer type for token data
    y: np.ndarray  # [N] or [N, T] int32 class labels, or [N, O] or [N, T, O] float32 targets
    mask: np.ndarray | None = None  # [N, T] float32, 0 where a time step does not count; None: a row is one item

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray | slice) -> Dataset:
        """The examples with these row numbers, in their order."""
        return Dataset(self.x[rows], self.y[rows], None if self.mask is None else self.mask[rows])

    def counting(self) -> np.ndarray:
        """1 for what counts and 0 for what does not, in the shape of the losses: [N] or [N, T] float32."""
        return np.ones(len(self), np.float32) if self.mask is None else self.mask

    def batch(self, rows: np.ndarray | slice = slice(None)) -> dict[str, np.ndarray]:
        """{"x", "y", "weight"} of these rows (all by default), as a model's loss takes them.

        The weights have the shape of `counting`: one equal weight for whatever counts and 0 for the rest, with sum 1
        (0 where nothing counts).
        """
        part = self.take(rows)
        counting = part.counting()
        return {"x": part.x, "y": part.y, "weight": counting / (counting.sum() or 1)}

    def check_values(self, where: str) -> None:
        """Raises InputError, its text beginning with `where`, for a value that is not finite in float32."""
        for name, values in (("x", self.x), ("y", self.y)):
            if values.dtype.kind == "f":
                check_finite(f"{where}: {name}", values)

    def check_labels(self, where: str, classes: int) -> None:
        """Raises InputError, its text beginning with `where`, unless the integer labels lie in 0..classes-1."""
        wrong = np.argwhere((self.y < 0) | (self.y >= classes))
        if wrong.size:
            label = self.y[tuple(wrong[0])]
            raise InputError(
                f"{where}: y row {wrong[0][0]} holds label {label}, and labels must lie in 0..{classes - 1}"
            )

    def contents(self) -> Iterator[bytes | memoryview]:
        """All that tells this part from another: shapes, types and entries."""
        for array in (self.x, self.y, self.mask):
            if array is not None:
                yield str((array.shape, array.dtype)).encode()
                yield np.ascontiguousarray(array).data


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts of a data set. No part is unchecked.

    Raises InputError for a part that is empty, of which nothing counts, that holds a value that is not finite or a
    label outside 0..classes-1, or that has another shape than the training part.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset
    classes: tuple[str, ...] | None  # class names; None for regression
    fitted: Preparation | None = None  # what raw rows went through; None: nothing
    item_bytes: float | None = None  # of text in a class on average, for bits per byte; None: the data are no text

    @property
    def preparation(self) -> Preparation:
        """What raw rows go through before the model: what was fitted, or else only checks that they fit."""
        if self.fitted is not None:
            return self.fitted
        x = self.train.x
        if x.dtype.kind in "iu":
            return Preparation(Ids(), classes=self.classes)
        steps = self.train.mask is not None
        return Preparation(Numbers(x.shape[1:], x.dtype.name, steps=steps), classes=self.classes)

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            part = getattr(self, name)
            if part is not None:
                check(f"{name} part", part, self.classes)
                if not any(row.any() for row in part.counting()):  # looks no further than the first that counts
                    raise InputError(f"{name} part: its mask is 0 everywhere, and one time step must count at least")
                self._check_shape(name, part)

    def _check_shape(self, name: str, part: Dataset) -> None:
        for letter in ("x", "y"):
            shape = getattr(part, letter).shape[1:]
            expected = getattr(self.train, letter).shape[1:]
            if shape != expected:
                raise InputError(f"{name} part: a row of {letter} has shape {shape}, in the train part {expected}")

    def map(self, f: Callable[[Dataset], Dataset]) -> Splits:
        """The same splits with `f` applied to every part."""
        validation = None if self.validation is None else f(self.validation)
        return replace(self, train=f(self.train), validation=validation, test=f(self.test))


def check(where: str, part: Dataset, classes: tuple[str, ...] | None) -> None:
    """Raises InputError, its text beginning with `where`, unless x and y have equally many rows (at least one) with
    values in them, all values are finite in float32, and integer labels lie in 0..classes-1."""
    if len(part.x) != len(part.y):
        raise InputError(f"{where}: x has {len(part.x)} rows and y has {len(part.y)}, and both need equally many")
    if len(part) == 0:
        raise InputError(f"{where}: holds no examples, and needs at least one")
    for name, values in (("x", part.x), ("y", part.y)):
        if 0 in values.shape[1:]:
            raise InputError(f"{where}: a row of {name} has shape {values.shape[1:]}, which holds no values")
    part.check_values(where)
    if classes is not None and part.y.dtype.kind == "i":
        part.check_labels(where, len(classes))


@dataclass(frozen=True)
class DataConfig(Typed, ABC):
    """The base of every data set's config. Its fields are config keys."""

    @abstractmethod
    def load(self) -> Splits:
        """Reads or makes the data. Raises InputError if that cannot be done."""
        raise NotImplementedError

    def augment(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """A random change of a training batch [N, ...] inside the compiled step: a pure function of key and x."""
        return x


def epoch_order(
    seed: int, epoch: int, examples: int, batch_size: int, shuffle: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The examples of one epoch in batches: row numbers [steps, batch_size] int32 and mask [steps, batch_size] float32.

    A pure function of its arguments. Every example occurs exactly once with mask 1, in file order if not `shuffle`. The
    last batch is padded with row 0, mask 0. Raises InputError if batch_size is not in 1..examples.
    """
    if not 1 <= batch_size <= examples:
        raise InputError(f"batch_size must lie in 1..{examples} (the number of examples), got {batch_size}")
    steps = -(-examples // batch_size)
    order = np.zeros(steps * batch_size, np.int32)
    mask = np.zeros(steps * batch_size, np.float32)
    order[:examples] = np.random.default_rng([seed, epoch]).permutation(examples) if shuffle else np.arange(examples)
    mask[:examples] = 1
    return order.reshape(steps, batch_size), mask.reshape(steps, batch_size)
