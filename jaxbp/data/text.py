"""Text by characters: every window of it is an example, and the character after each of its characters the target."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits, unreadable
from jaxbp.errors import InputError
from jaxbp.typed import Count, Share

PLAIN = "\t\n" + "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Text(DataConfig):
    """x, y [windows, length] int32 of a text file; the classes are tab, newline, the 95 printable characters of ASCII,
    and what else the text has. The test part is the end of the text, in windows that overlap by half: each character
    counts once there, with at least half a window before it (but for the first window).

    Args:
        path: a text file in UTF-8; None: the sources of Python's standard library, ASCII alone
        size: characters to use, from the beginning; None: all
        length: characters in a window
        test_fraction: part at the end that is kept for the test
        streams: read so many parts of the text side by side, batch after batch: for model.carry
    """

    path: str | None = None
    size: Count | None = None
    length: Count = 128
    test_fraction: Share = 0.1
    streams: Count | None = None

    def load(self) -> Splits:
        text = (standard_library() if self.path is None else read(Path(self.path)))[: self.size]
        classes = PLAIN + "".join(sorted(set(text) - set(PLAIN)))
        cut = len(text) - round(self.test_fraction * len(text))
        if min(cut, len(text) - cut) <= self.length:
            raise InputError(
                f"a text of {len(text)} characters has no window of length={self.length} in its "
                f"{'training' if cut <= self.length else 'test'} part"
            )
        number = {character: i for i, character in enumerate(classes)}
        ids = np.fromiter(map(number.__getitem__, text), np.int32, len(text))
        train = in_streams(windows(ids[:cut], self.length, self.length), self.streams or 1)
        return Splits(train, None, overlapping(ids[cut:], self.length), tuple(classes))


def windows(ids: np.ndarray, length: int, stride: int) -> Dataset:
    """Examples of `length` characters, each `stride` after the one before."""
    starts = np.arange(0, len(ids) - length, stride)[:, None] + np.arange(length)
    return Dataset(ids[starts], ids[starts + 1], np.ones(starts.shape, np.float32))


def in_streams(data: Dataset, streams: int) -> Dataset:
    """The examples in the order in which so many readers, each in its own part of the text, come to them."""
    steps = len(data) // streams
    if steps == 0:
        raise InputError(f"streams={streams} are too many for a text of {len(data)} windows")
    return data.take(np.arange(steps * streams).reshape(streams, steps).T.ravel())


def overlapping(ids: np.ndarray, length: int) -> Dataset:
    """Windows that overlap by half; after the first, only the second half of a window counts."""
    data = windows(ids, length, max(length // 2, 1))
    data.mask[1:, : length - max(length // 2, 1)] = 0
    return data


def read(path: Path) -> str:
    """A text file. Raises InputError where it is none."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def standard_library() -> str:
    """The modules at the top level of Python's standard library in alphabetical order, without what is not ASCII."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    return "".join(filter(set(PLAIN).__contains__, text))
