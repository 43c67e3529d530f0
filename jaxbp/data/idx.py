"""The IDX format of MNIST and its relatives. Files may be gzipped, whatever their names.

A file holds two zero bytes, a type byte, the number of dimensions in one byte, the dimensions as big-endian uint32, and
the values, big-endian.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.checks import unreadable
from jaxbp.data.moved import Movable
from jaxbp.data.pipeline import Dataset, Splits, check
from jaxbp.data.preparation import Numbers
from jaxbp.data.prepare import Prepared, label_numbers
from jaxbp.errors import InputError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class Idx(Movable, Prepared):
    """Images and labels in IDX files. Images of unsigned bytes are divided by 255, other types are not. Labels become
    0, 1, ... in sorted order.

    Args:
        train_images: path of an IDX file [N, rows, columns], gzipped or not
        train_labels: path of an IDX file [N] of integers
        test_images: path, as train_images
        test_labels: path, as train_labels
        image: whether x is [N, rows, columns, 1] instead of [N, rows * columns]
    """

    train_images: str
    train_labels: str
    test_images: str
    test_labels: str
    image: bool = False

    def load(self) -> Splits:
        train = read_pair(Path(self.train_images), Path(self.train_labels), self.image)
        test = read_pair(Path(self.test_images), Path(self.test_labels), self.image)
        values = np.unique(train.y)
        train = Dataset(train.x, label_numbers(self.train_labels, train.y, values))
        test = Dataset(test.x, label_numbers(self.test_labels, test.y, values))
        return self.finish(train, test, tuple(str(value) for value in values), Numbers.of_images)


def read_pair(images: Path, labels: Path, image: bool, classes: tuple[str, ...] | None = None) -> Dataset:
    """x [N, rows * columns], or [N, rows, columns, 1] if `image`, and y [N] int32, the labels as the file has them.

    Raises InputError, naming the file, for arrays of a wrong rank or type, unequal numbers of images and labels, or a
    label outside 0..classes-1.
    """
    x = read_idx(images)
    y = read_idx(labels)
    ranks = (3,) if image else (2, 3, 4)
    if x.ndim not in ranks:
        allowed = " or ".join(map(str, ranks))
        raise InputError(f"{images}: images must have {allowed} dimensions (N, rows, columns), this file has {x.ndim}")
    if y.ndim != 1 or y.dtype.kind == "f":
        raise InputError(f"{labels}: labels must be integers in 1 dimension, this file has {y.dtype} in {y.ndim}")
    if len(x) != len(y):
        raise InputError(f"{images} holds {len(x)} images and {labels} holds {len(y)} labels; both need equally many")
    x = x.reshape(*x.shape, 1) if image else x.reshape(len(x), math.prod(x.shape[1:]))
    data = Dataset(x, y.astype(np.int32))
    check(f"{images} with {labels.name}", data, classes)
    return data


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, in native byte order. Raises InputError unless the file is exactly one IDX array."""
    raw = _content(path)
    if len(raw) < 4:
        raise InputError(f"{path}: holds {len(raw)} bytes, and an IDX file begins with 4")
    kind = raw[2]
    rank = raw[3]
    if raw[:2] != b"\0\0" or kind not in TYPES or not 1 <= rank <= 4:
        raise InputError(
            f"{path}: begins with bytes {raw[:4].hex(' ')}, which is no IDX file (those begin with 00 00, "
            f"a type {'/'.join(f'{t:02x}' for t in TYPES)}, and 01..04 dimensions)"
        )
    start = 4 + 4 * rank
    shape = tuple(int.from_bytes(raw[i : i + 4], "big") for i in range(4, start, 4))
    dtype = np.dtype(TYPES[kind])
    size = start + math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        fault = "is truncated" if len(raw) < size else "has trailing bytes"
        raise InputError(f"{path}: {fault}: shape {shape} of {dtype.name} needs {size} bytes, the file has {len(raw)}")
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _content(path: Path) -> bytes:
    """The bytes of a file, decompressed if they are gzipped."""
    try:
        raw = path.expanduser().read_bytes()
        return gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
