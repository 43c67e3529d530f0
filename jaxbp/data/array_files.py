"""Arrays in NPY and IDX files that stay on the disk.

Rows are read by their place in the file. They are not mapped into memory: every page that was once read would count as
memory of the process, and a file that becomes shorter would end it without a word.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.checks import to_float32
from jaxbp.data.idx import read_header, read_idx
from jaxbp.data.moved import Movable
from jaxbp.data.npy import HEADERS, read_npy
from jaxbp.data.outside import located, reading
from jaxbp.data.preparation import Numbers
from jaxbp.data.prepare import label_numbers
from jaxbp.data.sources import Row, Streamed
from jaxbp.data.token_files import pieces_of
from jaxbp.errors import InputError


@dataclass(frozen=True)
class ArrayFiles(Streamed, Movable):
    """Inputs and targets in two files each, NPY or IDX, of which the inputs stay on the disk. Unsigned bytes become
    0..1, other numbers stay as they are, in float32. Whole numbers as targets are labels, which become 0, 1, ... in
    sorted order; others are targets of a regression, [N] or [N, O].

    Args:
        train_x: path of an array [N, ...] of numbers
        train_y: path of an array [N] or [N, O]
        test_x: path, as train_x; None: the test part is drawn
        test_y: path, as train_y
        image: whether x is [N, rows, columns, channels], with 1 channel for [N, rows, columns], instead of flat
    """

    train_x: str
    train_y: str
    test_x: str | None = None
    test_y: str | None = None
    image: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.test_x is None) != (self.test_y is None):
            raise InputError("ArrayFiles: test_x and test_y go together, and only one is there")

    def source(self) -> tuple[ArraySource, tuple[str, ...] | None, Numbers]:
        labels = read_targets(self.train_y)
        values = np.unique(labels) if labels.dtype.kind != "f" else None
        source = self._source(self.train_x, self.train_y, values)
        classes = None if values is None else tuple(map(str, values))
        return source, classes, source.raw

    def test_source(self) -> ArraySource | None:
        if self.test_x is None or self.test_y is None:
            return None
        labels = read_targets(self.train_y)
        values = np.unique(labels) if labels.dtype.kind != "f" else None
        return self._source(self.test_x, self.test_y, values)

    def _source(self, x: str, y: str, values: np.ndarray | None) -> ArraySource:
        """The examples of two files; values: all labels, None for regression."""
        file = ArrayFile.open(located(x))
        targets = read_targets(y)
        if len(targets) != file.shape[0]:
            raise InputError(f"{x} holds {file.shape[0]} rows and {y} holds {len(targets)}; both need equally many")
        if values is None:
            if not np.isfinite(targets).all():
                raise InputError(f"{y}: holds a target that is not finite")
            targets = to_float32(targets).reshape(len(targets), -1)
        elif targets.ndim != 1 or targets.dtype.kind == "f":
            raise InputError(f"{y}: labels must be integers in 1 dimension, got {targets.dtype} in {targets.ndim}")
        else:
            targets = label_numbers(y, targets, values)
        shape = file.shape[1:]
        if self.image and len(shape) not in (2, 3):
            raise InputError(f"{x}: images must have 3 or 4 dimensions, this file has {len(shape) + 1}")
        shape = (*shape, 1)[:3] if self.image else (math.prod(shape),)
        return ArraySource(file, targets, Numbers(shape, file.dtype.name, pixels=file.dtype == np.uint8))


@dataclass(frozen=True)
class ArrayFile:
    """Where the rows of an array lie in its file.

    start: bytes before the first row.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @classmethod
    def open(cls, path: Path) -> ArrayFile:
        """The array in a file, which is not read. Raises InputError for a file that is no array of numbers, that is
        compressed, or that has not the size that its header says."""
        with reading(path) as file:
            beginning = file.peek(6)
            if beginning.startswith(b"\x1f\x8b"):
                raise InputError(f"{path}: is compressed, and rows are read by their place: unpack it")
            if beginning.startswith(np.lib.format.MAGIC_PREFIX):
                version = np.lib.format.read_magic(file)
                if version not in HEADERS:
                    raise InputError(f"{path}: is in version {version[0]}.{version[1]} of NumPy's format, not in 1.0")
                shape, by_columns, dtype = HEADERS[version](file)
                if by_columns and len(shape) > 1:
                    raise InputError(f"{path}: is stored by columns (fortran_order): save np.ascontiguousarray(array)")
                start = file.tell()
            else:
                shape, dtype, start = read_header(file, path)
            size = os.fstat(file.fileno()).st_size
        if dtype.kind not in "fiub" or not shape:
            raise InputError(f"{path}: holds {dtype} of shape {shape}, and must be an array of numbers")
        needed = start + math.prod(shape) * dtype.itemsize
        if size != needed:
            fault = "is truncated" if size < needed else "has trailing bytes"
            claim = f"shape {shape} of {dtype.name} needs {needed} bytes"
            raise InputError(f"{path}: {fault}: {claim}, the file has {size}")
        return cls(path, tuple(shape), dtype, start)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows [n, ...] in native byte order. Raises InputError where the file has become shorter."""
        array = np.empty((len(rows), *self.shape[1:]), self.dtype)
        length = array.nbytes // max(len(rows), 1)
        with self.path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            view = memoryview(array.reshape(-1).view(np.uint8).data)
            for place, row in enumerate(rows.tolist()):
                part = view[place * length : (place + 1) * length]
                if os.preadv(descriptor, [part], self.start + row * length) != length:
                    raise InputError(f"{self.path}: has become shorter since it was opened")
        return array.astype(self.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class ArraySource:
    """Rows of a file with their targets, which are in memory: y [N] int32 or [N, O] float32."""

    file: ArrayFile
    targets: np.ndarray
    raw: Numbers

    @property
    def x(self) -> Row:
        """float32."""
        return Row(self.raw.shape, np.dtype(np.float32))

    @property
    def y(self) -> Row:
        """As the targets are."""
        return Row(self.targets.shape[1:], self.targets.dtype)

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of these rows. Raises InputError for a value that is not finite."""
        x = to_float32(self.raw.encode(self.file.read(rows))).reshape(len(rows), *self.raw.shape)
        if self.file.dtype.kind == "f" and not np.isfinite(x).all():
            row = rows[~np.isfinite(x).reshape(len(x), -1).all(1)][0]
            raise InputError(f"{self.file.path}: row {row} holds a value that is not finite in float32")
        return x, self.targets[rows]

    def pieces(self) -> Iterator[bytes]:
        """Size and pieces of the file, and all targets."""
        yield str((self.raw, self.targets.shape, self.targets.dtype)).encode()
        yield self.targets.tobytes()
        yield from pieces_of(self.file.path)


def read_targets(path: str) -> np.ndarray:
    """The array of an NPY or IDX file, in memory. Raises InputError where it is no array of numbers [N] or [N, O]."""
    place = located(path)
    with reading(place) as file:
        npy = file.peek(6).startswith(np.lib.format.MAGIC_PREFIX)
    targets = read_npy(place) if npy else read_idx(place)
    if targets.dtype.kind not in "fiu" or targets.ndim not in (1, 2):
        raise InputError(f"{path}: targets must be numbers [N] or [N, O], got {targets.dtype} in {targets.ndim} axes")
    return targets
