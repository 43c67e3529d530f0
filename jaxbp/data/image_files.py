"""Folders of images that stay on the disk, with one subfolder per class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.images import class_files, read_image
from jaxbp.data.moved import Movable
from jaxbp.data.outside import Allowance, located
from jaxbp.data.preparation import Numbers
from jaxbp.data.sources import Row, Streamed
from jaxbp.errors import InputError

BEGINNINGS = 1024  # files whose first bytes are in the fingerprint
BEGINNING = 4096  # bytes


@dataclass(frozen=True)
class ImageFiles(Streamed, Movable):
    """x [N, rows, columns, 3] in [0, 1]; the classes are the subfolders' names. Images are decoded as training goes on,
    by threads. What a subfolder may hold is said at Images; a file that is damaged or has another size ends the run
    when it is read, in one line that names it.

    Args:
        path: folder with one subfolder of images per class, all of one size
        test_path: the same for the test part, with the same classes; None: the test part is drawn
        grayscale: whether x is the brightness [N, rows, columns, 1]
    """

    path: str
    test_path: str | None = None
    grayscale: bool = False

    def source(self) -> tuple[ImageSource, tuple[str, ...] | None, Numbers]:
        source = self._of(self.path)
        return source, source.classes, source.raw

    def test_source(self) -> ImageSource | None:
        if self.test_path is None:
            return None
        train, test = self._of(self.path), self._of(self.test_path)
        if train.classes != test.classes:
            raise InputError(f"{self.test_path} has classes {test.classes}, and {self.path} has {train.classes}")
        return test

    def _of(self, path: str) -> ImageSource:
        """The images of a folder, of which the first is read, for its size."""
        classes, files, labels = class_files(located(path))
        pixels = read_image(files[0], self.grayscale, self.allowance())
        raw = Numbers(pixels.shape, "uint8", pixels=True)
        return ImageSource(classes, files, labels, raw, self.allowance())


@dataclass(frozen=True)
class ImageSource:
    """Image files and their labels, int32 [N]."""

    classes: tuple[str, ...]
    files: Sequence[Path]
    labels: np.ndarray
    raw: Numbers
    allowance: Allowance

    @property
    def x(self) -> Row:
        """float32."""
        return Row(self.raw.shape, np.dtype(np.float32))

    @property
    def y(self) -> Row:
        """Class numbers."""
        return Row((), np.dtype(np.int32))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels. Raises InputError, naming the file, for one that is damaged or of another size."""
        pixels = np.empty((len(rows), *self.raw.shape), np.uint8)
        like = (self.files[0], self.raw.shape[:2])
        for place, row in enumerate(rows.tolist()):
            pixels[place] = read_image(self.files[row], self.raw.shape[-1] == 1, self.allowance, like)
        return self.raw.encode(pixels), self.labels[rows]

    def pieces(self) -> Iterator[bytes]:
        """Names and sizes of all files, and the beginnings of some."""
        yield str((self.classes, self.raw)).encode() + self.labels.tobytes()
        for file in self.files:
            yield f"{file.name} {file.stat().st_size}".encode()
        for file in self.files[:: -(-len(self.files) // BEGINNINGS)]:
            with file.open("rb") as stream:
                yield stream.read(BEGINNING)
