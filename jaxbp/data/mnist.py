"""MNIST from a folder, or downloaded once into the user's cache and checked by sha256."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.data.checks import unreadable
from jaxbp.data.from_files import FromFiles
from jaxbp.data.idx import read_pair
from jaxbp.data.moved import Movable
from jaxbp.data.outside import Allowance, located
from jaxbp.data.pipeline import Dataset, Splits
from jaxbp.data.preparation import Numbers
from jaxbp.data.prepare import Prepared, hold_out
from jaxbp.errors import InputError
from jaxbp.files import write_whole

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
SHA256 = {  # of the decompressed files: mirrors compress differently
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
LARGEST = 2**26  # bytes that are taken of a file, which is more than each has
CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Mnist(FromFiles, Movable, Prepared):
    """Handwritten digits, 60,000 for training and 10,000 for the test, in [0, 1]: x [N, 784]. It also reads other data
    with labels 0..9 in files of the same names (Fashion-MNIST).

    Args:
        path: folder with the four IDX files, gzipped or not; None downloads MNIST into the cache
        image: whether x is [N, 28, 28, 1] instead of [N, 784]
        train_size: training examples to use, those for validation included, in a stratified draw; None: all
    """

    path: str | None = None
    image: bool = False
    train_size: int | None = None

    def load(self) -> Splits:
        folder = download(cache_folder(), MIRRORS) if self.path is None else located(self.path)
        allowance = self.allowance()
        train = self._read(folder, "train", allowance)
        test = self._read(folder, "t10k", allowance)
        if self.train_size is not None and self.train_size != len(train):
            _, train = hold_out(train, CLASSES, self.train_size, self.seed, f"train_size={self.train_size}")
        return self.finish(train, test, CLASSES, Numbers.of_images)

    def _read(self, folder: Path, part: str, allowance: Allowance) -> Dataset:
        images = find(folder, f"{part}-images-idx3-ubyte")
        labels = find(folder, f"{part}-labels-idx1-ubyte")
        return read_pair(images, labels, self.image, allowance, CLASSES)


def find(folder: Path, name: str) -> Path:
    """The file of this name in `folder`, in one of its four spellings. Raises InputError if there is none."""
    try:
        for stem in (name, name.replace("-idx", ".idx")):
            for path in (folder / stem, folder / f"{stem}.gz"):
                if path.exists():
                    return path
    except OSError as error:  # such as for a name that is too long
        raise unreadable(folder, error) from error
    raise InputError(f"no {name} or {name}.gz in folder {folder}; path must be the folder with MNIST's four files")


def cache_folder() -> Path:
    """The folder of downloads: $XDG_CACHE_HOME/jaxbp/mnist, or the same below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxbp" / "mnist"


def download(folder: Path, mirrors: Sequence[str]) -> Path:
    """`folder` with MNIST's four files in it. A missing file comes from the first mirror that has it intact.

    Raises InputError if no mirror has it, or the folder cannot be written.
    """
    try:
        for name in SHA256:
            if not (folder / name).exists():
                content = fetch(name, mirrors)
                folder.mkdir(parents=True, exist_ok=True)  # not before: a failed download leaves nothing
                write_whole(folder / name, content)
    except OSError as error:
        raise InputError(f"cannot write MNIST to the cache ({error}); give path, or set XDG_CACHE_HOME") from error
    return folder


def fetch(name: str, mirrors: Sequence[str]) -> bytes:
    """The decompressed content of one file. Raises InputError if no mirror gives it with the right sha256."""
    from http.client import HTTPException
    from urllib.request import urlopen

    failures = []
    for mirror in mirrors:
        try:
            with urlopen(f"{mirror}{name}.gz", timeout=30) as response:
                stream = gzip.GzipFile(fileobj=io.BytesIO(response.read(LARGEST)))
                content = stream.read(LARGEST)
        except (OSError, EOFError, HTTPException, zlib.error) as error:
            failures.append(f"{mirror}: {error}")
            continue
        if hashlib.sha256(content).hexdigest() == SHA256[name]:
            return content
        failures.append(f"{mirror}: wrong sha256")
    raise InputError(f"cannot download {name} ({'; '.join(failures)}); give path, a folder with MNIST's four files")
