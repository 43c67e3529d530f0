"""A folder of images, with one subfolder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.checks import unreadable
from jaxbp.data.moved import Movable
from jaxbp.data.pipeline import Dataset
from jaxbp.data.preparation import Numbers
from jaxbp.data.prepare import Examples, Tabular
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Images(Movable, Tabular):
    """x [N, rows, columns, 3] in [0, 1] before scaling; the classes are the subfolders' names. A subfolder must
    hold images that Pillow can read and nothing else. Names that begin with a dot are ignored.

    Args:
        path: folder with one subfolder of images per class, all of one size
        grayscale: whether x is the brightness [N, rows, columns, 1]
    """

    path: str
    grayscale: bool = False

    def table(self) -> Examples:
        folder = Path(self.path).expanduser()
        classes = [entry for entry in visible(folder) if entry.is_dir()]
        if len(classes) < 2:
            raise InputError(f"{folder}: needs two subfolders or more, one per class, it has {len(classes)}")
        files = [(file, number) for number, subfolder in enumerate(classes) for file in visible(subfolder)]
        pixels = [read_image(file, self.grayscale) for file, _ in files]
        for (file, _), image in zip(files, pixels, strict=True):
            if image.shape != pixels[0].shape:
                raise InputError(
                    f"{file}: has {_size(image)} pixels, and {files[0][0]} has {_size(pixels[0])}; "
                    "all must have one size"
                )
        y = np.array([number for _, number in files], np.int32)
        names = tuple(entry.name for entry in classes)
        return Examples(Dataset(np.stack(pixels), y), names, Numbers.of_images)


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name. Raises InputError if it is empty or cannot be read."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error
    if not entries:
        raise InputError(f"{folder}: the folder is empty")
    return entries


def read_image(file: Path, grayscale: bool) -> np.ndarray:
    """The pixels [rows, columns, 3 or 1] uint8 of a file. Raises InputError unless it is an 8-bit image."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode = image.mode
            pixels = np.asarray(image.convert("L" if grayscale else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise unreadable(file, error) from error
    if mode[0] in "IF":
        raise InputError(f"{file}: has pixels of type {mode}, and only 8 bits a channel are allowed")
    return pixels.reshape(*pixels.shape[:2], -1)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"
