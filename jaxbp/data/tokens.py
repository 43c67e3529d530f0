"""Tokens by the file: windows of text that stay on the disk, whatever their size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.outside import located
from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.data.preparation import Ids, Preparation
from jaxbp.data.stream import Stream
from jaxbp.data.text import standard_library
from jaxbp.data.token_files import TokenArray, TokenFile
from jaxbp.data.vocabulary import META, MOST, Meta, Vocabulary
from jaxbp.errors import InputError
from jaxbp.typed import Count, Share

TRAIN = ("train*.bin", "*train*.bin")  # the names of files in a folder, the first pattern that fits
TEST = ("test*.bin", "val*.bin", "*test*.bin", "*val*.bin")


@dataclass(frozen=True)
class Tokens(DataConfig):
    """x, y [windows, length] int32 from files of token ids, which `jaxbp tokenize` writes, or nanoGPT or llm.c.

    A window is `length` ids and the one after them; windows lie side by side and end with their file. Files are read
    as training goes on and take no memory; a run that is resumed reads nothing twice. An order of the windows is
    computed from run.seed, the pass and the place, and each pass takes every window once.

    Args:
        path: a folder of files such as train.bin and test.bin or val.bin; a file; a pattern such as data/train_*.bin;
            None: the sources of Python's standard library, in bytes
        test_path: file or pattern of the test part; None: the folder's own, or else the last windows
        length: ids in a window
        vocabulary: number of ids; None: what meta.json beside the files says
        windows: windows in an epoch of the run, after which comes an evaluation; None: all. The next epoch goes on
            where one ends
        test_fraction: fraction of the windows at the end that is the test part, where it has no file
        test_windows: windows of the test part, evenly spaced; None: all. They are held in memory
    """

    path: str | None = None
    test_path: str | None = None
    length: Count = 128
    vocabulary: Count | None = None
    windows: Count | None = None
    test_fraction: Share = 0.1
    test_windows: Count | None = 1000

    def load(self) -> Splits:
        sources, meta = self.sources()
        vocabulary = self.ids(meta)
        size = meta.vocabulary.size if meta and self.vocabulary is None else self.vocabulary
        if size is None:
            raise InputError(f"there is no {META} beside {self.path}: set data.vocabulary to the number of ids")
        if size > MOST:
            raise InputError(f"data.vocabulary: at most {MOST:,} ids, got {size:,}")
        names = vocabulary.names() if vocabulary else tuple(map(str, range(size)))
        every = Windows.of(sources, self.length, size)
        if tests := self.test_sources():
            test = Windows.of(tests, self.length, size)
        else:
            cut = len(every) - round(self.test_fraction * len(every))
            every, test = every.part(0, cut), every.part(cut, len(every))
        for name, part in (("training", every), ("test", test)):
            if not len(part):
                raise InputError(f"{self.path or 'the text'} has no window of length={self.length} in its {name} part")
        train = Stream(every, every.moved(), epoch=self.windows or len(every))
        return Splits(
            train,
            None,
            spaced(test, min(self.test_windows or len(test), len(test))),
            names,
            Preparation(Ids(size, vocabulary), classes=names),
            meta.bytes / meta.tokens if meta else None,
        )

    def sources(self) -> tuple[Sequence[TokenFile | TokenArray], Meta | None]:
        """The files of the training part, and what is known of them."""
        if self.path is None:
            ids = np.frombuffer(standard_library().encode(), np.uint8)
            return [TokenArray(ids)], Meta(Vocabulary("bytes", 256), len(ids), len(ids))
        path = located(self.path)
        files = in_folder(path, TRAIN) if path.is_dir() else matching(path)
        if not files:
            raise InputError(f"{self.path} has no file named {' or '.join(TRAIN)}")
        return [TokenFile.open(file) for file in files], Meta.read(files[0].parent)

    def test_sources(self) -> list[TokenFile]:
        """The files of the test part; none where it is the end of the training files."""
        folder = located(self.path) if self.path else None
        if self.test_path is not None:
            return [TokenFile.open(file) for file in matching(located(self.test_path))]
        return [TokenFile.open(file) for file in in_folder(folder, TEST)] if folder and folder.is_dir() else []

    def ids(self, meta: Meta | None) -> Vocabulary | None:
        """What the ids stand for, as many as `vocabulary` says; None where no file says it."""
        if meta is None:
            return None
        return meta.vocabulary if self.vocabulary is None else meta.vocabulary.padded(self.vocabulary)


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows `first` ... `last` - 1 of some files, [windows, length] int32, read when they are asked for.

    shift: 0 for inputs, 1 for targets. starts: the number of windows before each file, and in all. ids: number of ids.
    """

    files: Sequence[TokenFile | TokenArray]
    starts: np.ndarray
    first: int
    last: int
    length: int
    ids: int
    shift: int = 0

    @classmethod
    def of(cls, files: Sequence[TokenFile | TokenArray], length: int, ids: int) -> Windows:
        """All windows of the files."""
        counts = [max(file.count - 1, 0) // length for file in files]
        return cls(files, np.cumsum([0, *counts]), 0, sum(counts), length, ids)

    def part(self, first: int, last: int) -> Windows:
        """Some of them."""
        return Windows(self.files, self.starts, first, last, self.length, self.ids, self.shift)

    def moved(self) -> Windows:
        """The same windows one id later."""
        return Windows(self.files, self.starts, self.first, self.last, self.length, self.ids, 1)

    @property
    def shape(self) -> tuple[int, int]:
        """[windows, length]."""
        return len(self), self.length

    @property
    def size(self) -> int:
        """Ids in all windows."""
        return len(self) * self.length

    @property
    def dtype(self) -> np.dtype:
        """int32."""
        return np.dtype(np.int32)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """These windows in memory. Raises InputError for an id that is none."""
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        windows = rows + self.first
        ids = np.empty((len(windows), self.length), np.int32)
        owners = np.searchsorted(self.starts, windows, side="right") - 1
        for number in np.unique(owners).tolist():
            inside = owners == number
            places = (windows[inside] - self.starts[number]) * self.length + self.shift
            ids[inside] = self.files[number].read(places, self.length)
            if ids[inside].max(initial=0) >= self.ids or ids[inside].min(initial=0) < 0:
                raise InputError(
                    f"{self.files[number]}: holds id {ids[inside].max()}, and ids must lie in 0..{self.ids - 1} "
                    "(data.vocabulary)"
                )
        return ids

    def pieces(self) -> Iterator[bytes]:
        """What tells these windows from others."""
        yield str((self.first, self.last, self.length, self.ids, self.shift)).encode()
        for file in self.files:
            yield from file.pieces()


def spaced(windows: Windows, count: int) -> Dataset:
    """`count` evenly spaced windows and their targets, in memory."""
    rows = np.arange(count) * len(windows) // count
    x = windows[rows]
    return Dataset(x, windows.moved()[rows], np.ones(x.shape, np.float32))


def in_folder(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files in a folder that fit the first pattern which any fits, by name."""
    return next((files for pattern in patterns if (files := sorted(folder.glob(pattern)))), [])


def matching(path: Path) -> list[Path]:
    """The file at a path, or the files that fit it as a pattern, by name. Raises InputError where there is none."""
    files = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not files:
        raise InputError(f"there is no file {path}")
    return files
