"""A folder of images, with one subfolder per class."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxbp.data.checks import unreadable
from jaxbp.data.from_files import FromFiles
from jaxbp.data.moved import Movable
from jaxbp.data.outside import PREPARED, Allowance, located, reading
from jaxbp.data.pipeline import Dataset
from jaxbp.data.preparation import Numbers
from jaxbp.data.prepare import Examples, Tabular
from jaxbp.errors import InputError

DECODED = 16  # bytes of memory that a pixel takes in Pillow and on the way out of it


@dataclass(frozen=True)
class Images(FromFiles, Movable, Tabular):
    """x [N, rows, columns, 3] in [0, 1] before scaling; the classes are the subfolders' names. A subfolder must
    hold images that Pillow can read (but no EPS, which is a program), and nothing else. Names that begin with a dot are
    ignored.

    Args:
        path: folder with one subfolder of images per class, all of one size
        grayscale: whether x is the brightness [N, rows, columns, 1]
    """

    path: str
    grayscale: bool = False

    def table(self) -> Examples:
        classes, files, y = class_files(located(self.path))
        pixels = read_images(files, self.grayscale, self.allowance())
        return Examples(Dataset(pixels, y), classes, Numbers.of_images)


def class_files(folder: Path) -> tuple[tuple[str, ...], list[Path], np.ndarray]:
    """(class names, files, class numbers [N] int32) of a folder with one subfolder per class, all sorted by name.

    Raises InputError for fewer than two subfolders, and for an empty one.
    """
    classes = [entry for entry in visible(folder) if entry.is_dir()]
    if len(classes) < 2:
        raise InputError(f"{folder}: needs two subfolders or more, one per class, it has {len(classes)}")
    files = [(file, number) for number, subfolder in enumerate(classes) for file in visible(subfolder)]
    labels = np.array([number for _, number in files], np.int32)
    return tuple(entry.name for entry in classes), [file for file, _ in files], labels


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name. Raises InputError if it is empty or cannot be read."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error
    if not entries:
        raise InputError(f"{folder}: the folder is empty")
    return entries


def read_images(files: Sequence[Path], grayscale: bool, allowance: Allowance | None = None) -> np.ndarray:
    """The pixels [N, rows, columns, 3 or 1] uint8 of files of one size. Raises the errors of `read_image`."""
    allowance = allowance or Allowance()
    shape = read_image(files[0], grayscale, allowance).shape
    count = len(files) * math.prod(shape)
    allowance.take(files[0].parent, (1 + PREPARED) * count, f"{len(files)} images of {_size(shape)} pixels")
    pixels = np.empty((len(files), *shape), np.uint8)
    for i, file in enumerate(files):
        pixels[i] = read_image(file, grayscale, allowance, (files[0], shape[:2]))
    return pixels


def read_image(
    file: Path, grayscale: bool, allowance: Allowance | None = None, like: tuple[Path, tuple[int, ...]] | None = None
) -> np.ndarray:
    """The pixels [rows, columns, 3 or 1] uint8 of a file. Raises InputError unless it is an 8-bit image.

    like: another file, and the (rows, columns) of its image, which this one must have too. Size and type are looked at
    before pixels are decoded.
    """
    from PIL import Image

    Image.init()
    formats = [name for name in Image.ID if name != "EPS"]  # for which Pillow starts Ghostscript
    with reading(file, allowance := allowance or Allowance()) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at here
        with Image.open(stream, formats=formats) as image:
            shape = image.size[::-1]
            if like and shape != like[1]:
                raise InputError(
                    f"{file}: has {_size(shape)} pixels, and {like[0]} has {_size(like[1])}; all must have one size"
                )
            if kind := _wide(image):
                raise InputError(f"{file}: has pixels of type {kind}, and only 8 bits a channel are allowed")
            allowance.check(file, DECODED * shape[0] * shape[1], f"the image has {_size(shape)} pixels")
            pixels = np.asarray(image.convert("L" if grayscale else "RGB"))
    return pixels.reshape(*shape, -1)


def _wide(image: Any) -> str | None:
    """The type of the pixels where a channel has more than 8 bits, which Pillow would cut off; else None."""
    if image.mode[0] in "IF":
        return str(image.mode)
    stored = re.search(r"\w+;16[BLN]", str(image.tile))  # what the decoder of PNG and TIFF reads
    if stored:
        return stored[0]
    largest = [arguments[-1] for codec, _, _, arguments in image.tile if codec.startswith("ppm")]
    return f"0..{largest[0]}" if largest and largest[0] > 255 else None


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"
