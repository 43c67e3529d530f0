"""The IDX format of MNIST and its relatives. Files may be gzipped, whatever their names.

A file holds two zero bytes, a type byte, the number of dimensions in one byte, the dimensions as big-endian uint32, and
the values, big-endian.
"""

from __future__ import annotations

import gzip
import math
import os
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from jaxbp.data.from_files import FromFiles
from jaxbp.data.moved import Movable
from jaxbp.data.outside import PREPARED, Allowance, reading
from jaxbp.data.pipeline import Dataset, Splits, check
from jaxbp.data.preparation import Numbers
from jaxbp.data.prepare import Prepared, label_numbers
from jaxbp.errors import InputError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 2**20  # bytes that are decompressed at once


@dataclass(frozen=True)
class Idx(FromFiles, Movable, Prepared):
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
        allowance = self.allowance()
        train = read_pair(Path(self.train_images), Path(self.train_labels), self.image, allowance)
        test = read_pair(Path(self.test_images), Path(self.test_labels), self.image, allowance)
        values = np.unique(train.y)
        train = Dataset(train.x, label_numbers(self.train_labels, train.y, values))
        test = Dataset(test.x, label_numbers(self.test_labels, test.y, values))
        return self.finish(train, test, tuple(str(value) for value in values), Numbers.of_images)


def read_pair(
    images: Path, labels: Path, image: bool, allowance: Allowance, classes: tuple[str, ...] | None = None
) -> Dataset:
    """x [N, rows * columns], or [N, rows, columns, 1] if `image`, and y [N] int32, the labels as the file has them.

    Raises InputError, naming the file, for arrays of a wrong rank or type, unequal numbers of images and labels, or a
    label outside 0..classes-1.
    """
    x = read_idx(images, allowance)
    y = read_idx(labels, allowance)
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


def read_idx(path: Path, allowance: Allowance | None = None) -> np.ndarray:
    """The array in an IDX file, in native byte order. Raises InputError unless the file is exactly one IDX array.

    Its size is compared with the file's, and with what is allowed, before it is read. A gzipped file is read to the end
    of its array and no further.
    """
    with reading(path) as file:
        if file.peek(2).startswith(b"\x1f\x8b"):
            return _read(gzip.GzipFile(fileobj=file), path, allowance or Allowance(), None)
        return _read(file, path, allowance or Allowance(), os.fstat(file.fileno()).st_size)


def _read(stream: BufferedIOBase, path: Path, allowance: Allowance, length: int | None) -> np.ndarray:
    """The array in a stream of `length` bytes; None: its length is not known."""
    shape, dtype, start = read_header(stream, path)
    size = math.prod(shape) * dtype.itemsize
    needs = f"shape {shape} of {dtype.name} needs {start + size} bytes, the file has"
    if length is not None and length != start + size:
        fault = "is truncated" if length < start + size else "has trailing bytes"
        raise InputError(f"{path}: {fault}: {needs} {length}")
    allowance.take(path, size + PREPARED * math.prod(shape), f"it claims shape {shape} of {dtype.name}")
    raw = np.empty(size, np.uint8)
    filled = 0
    while count := stream.readinto(raw[filled : filled + CHUNK].data):
        filled += count
    if filled < size:
        raise InputError(f"{path}: is truncated: {needs} {start + filled}")
    if stream.read(1):
        raise InputError(f"{path}: has trailing bytes: {needs} more")
    return raw.view(dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def read_header(stream: BufferedIOBase, path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, type as it is stored, bytes before the array) of the file that a stream begins with."""
    head = stream.read(4)
    if len(head) < 4:
        raise InputError(f"{path}: holds {len(head)} bytes, and an IDX file begins with 4")
    _, _, kind, rank = head
    if head[:2] != b"\0\0" or kind not in TYPES or not 1 <= rank <= 4:
        raise InputError(
            f"{path}: begins with bytes {head.hex(' ')}, which is no IDX file (those begin with 00 00, "
            f"a type {'/'.join(f'{t:02x}' for t in TYPES)}, and 01..04 dimensions)"
        )
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise InputError(f"{path}: is truncated: {rank} dimensions need {4 + 4 * rank} bytes, not {4 + len(sizes)}")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    dtype = np.dtype(TYPES[kind])
    return shape, dtype, 4 + len(sizes)
