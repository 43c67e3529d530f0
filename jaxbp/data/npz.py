"""Arrays in a NumPy .npz file. Pickled objects are never read: a data file must not be able to run code."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.from_files import FromFiles
from jaxbp.data.npy import read_array
from jaxbp.data.outside import Allowance, reading
from jaxbp.data.pipeline import Dataset, Splits, check
from jaxbp.data.prepare import Prepared, label_numbers, split_test
from jaxbp.errors import InputError
from jaxbp.typed import Share


@dataclass(frozen=True)
class Npz(FromFiles, Prepared):
    """The file holds x_train, y_train, x_test and y_test, or x and y. Each x is [N, ...] of numbers. Each y is [N] of
    integers or text (class labels, numbered in sorted order) or [N] or [N, O] of floats (regression targets).

    Args:
        path: path of the .npz file
        test_fraction: fraction of x and y for the test part; None if the file has x_test
    """

    path: str
    test_fraction: Share | None = None

    def load(self) -> Splits:
        suffixes = ("_train", "_test") if self.test_fraction is None else ("",)
        arrays = read_npz(Path(self.path), self._required, self.allowance())
        parts = [self._part(arrays, suffix) for suffix in suffixes]
        parts, classes = self._number_labels(parts, suffixes)
        if self.test_fraction is None:
            train, test = parts
        else:
            train, test = split_test(parts[0], classes, self.test_fraction, self.seed)
        return self.finish(train, test, classes)

    def _required(self, present: Iterable[str]) -> list[str]:
        """The names of the arrays to read, of those that the file has."""
        required = ["x_train", "y_train", "x_test", "y_test"] if self.test_fraction is None else ["x", "y"]
        missing = [name for name in required if name not in present]
        if missing:
            rule = "with test_fraction x and y are needed, without it x_train, y_train, x_test and y_test"
            raise InputError(f"{self.path}: has no array {missing[0]}, only {', '.join(sorted(present))} ({rule})")
        return required

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


def read_npz(
    path: Path, chosen: Callable[[Iterable[str]], Iterable[str]] = tuple, allowance: Allowance | None = None
) -> dict[str, np.ndarray]:
    """The arrays of the file that `chosen` picks of the names in it, by name; all by default. No other is expanded.

    Raises InputError if it is no .npz file, is damaged, holds pickled objects, or takes more memory than is allowed.
    """
    allowance = allowance or Allowance()
    arrays = {}
    with reading(path) as file:
        if not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("it is no .npz file")
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name in chosen(members):
                with archive.open(members[name]) as member:
                    arrays[name] = read_array(member, f"{path}, array {name}", members[name].file_size, allowance)
                    if member.read(1):  # at the end zipfile compares the checksum
                        raise InputError(f"{path}, array {name}: has trailing bytes")
    return arrays
