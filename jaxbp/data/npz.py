"""Arrays in a NumPy .npz file. Pickled objects are never read: a data file must not be able to run code."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.checks import unreadable
from jaxbp.data.pipeline import Dataset, Splits, check
from jaxbp.data.prepare import Prepared, label_numbers, split_test
from jaxbp.errors import InputError
from jaxbp.typed import Share


@dataclass(frozen=True)
class Npz(Prepared):
    """The file holds x_train, y_train, x_test and y_test, or x and y. Each x is [N, ...] of numbers. Each y is [N] of
    integers or text (class labels, numbered in sorted order) or [N] or [N, O] of floats (regression targets).

    Args:
        path: path of the .npz file
        test_fraction: fraction of x and y for the test part; None if the file has x_test
    """

    path: str
    test_fraction: Share | None = None

    def load(self) -> Splits:
        arrays = read_npz(Path(self.path))
        suffixes = ("_train", "_test") if self.test_fraction is None else ("",)
        self._require(arrays, [f"{letter}{suffix}" for suffix in suffixes for letter in "xy"])
        parts = [self._part(arrays, suffix) for suffix in suffixes]
        parts, classes = self._number_labels(parts, suffixes)
        if self.test_fraction is None:
            train, test = parts
        else:
            train, test = split_test(parts[0], classes, self.test_fraction, self.seed)
        return self.finish(train, test, classes)

    def _require(self, arrays: dict[str, np.ndarray], names: list[str]) -> None:
        missing = [name for name in names if name not in arrays]
        if missing:
            rule = "with test_fraction x and y are needed, without it x_train, y_train, x_test and y_test"
            raise InputError(f"{self.path}: has no array {missing[0]}, only {', '.join(sorted(arrays))} ({rule})")

    def _part(self, arrays: dict[str, np.ndarray], suffix: str) -> Dataset:
        """x and y of one part, y as labels [N] of any type or targets [N, O]."""
        x = arrays[f"x{suffix}"]
        y = arrays[f"y{suffix}"]
        if x.ndim == 0 or x.dtype.kind not in "fiub":
            raise InputError(f"{self.path}: x{suffix} must be [N, ...] of numbers, got {x.dtype} {list(x.shape)}")
        targets = y.dtype.kind == "f"
        if y.ndim not in ((1, 2) if targets else (1,)) or y.dtype.kind not in "fiubU":
            raise InputError(
                f"{self.path}: y{suffix} must be [N] labels (integers or text), or [N] or [N, O] targets "
                f"(floats), got {y.dtype} {list(y.shape)}"
            )
        part = Dataset(x, y[:, None] if targets and y.ndim == 1 else y)
        check(f"{self.path}: x{suffix}, y{suffix}", part, None)
        return part

    def _number_labels(
        self, parts: list[Dataset], suffixes: tuple[str, ...]
    ) -> tuple[list[Dataset], tuple[str, ...] | None]:
        """The parts with labels as numbers 0, 1, ..., and the classes; targets stay as they are, without classes."""
        if len({part.y.dtype.kind == "f" for part in parts}) > 1:
            raise InputError(f"{self.path}: y_train and y_test must both be labels, or both be targets (floats)")
        if parts[0].y.dtype.kind == "f":
            return parts, None
        labels = np.unique(parts[0].y)
        numbers = [label_numbers(f"{self.path}: y{s}", part.y, labels) for s, part in zip(suffixes, parts, strict=True)]
        return [Dataset(part.x, y) for part, y in zip(parts, numbers, strict=True)], tuple(map(str, labels))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name. Raises InputError if it is no .npz file, is damaged, or holds pickled objects."""
    try:
        with path.expanduser().open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("it is no .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error) from error
