"""Text by characters. A window of text is an example, and the targets are the characters one place later."""

from __future__ import annotations

import io
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxbp.data.from_files import FromFiles
from jaxbp.data.outside import Allowance, reading
from jaxbp.data.pipeline import Dataset, Splits
from jaxbp.data.preparation import Ids, Preparation
from jaxbp.errors import InputError
from jaxbp.typed import Count, Share

CHARACTER = 64  # bytes of memory that a character takes as text, as ids and in windows
PLAIN = "\t\n" + "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Text(FromFiles):
    """x, y [windows, length] int32 of a text file. The classes are tab, newline, the 95 printable characters of ASCII,
    and any others in the text. The test part is the end of the text, in windows that overlap by half. Each character
    counts once there, and has at least half a window before it (but for the first window).

    Args:
        path: a text file in UTF-8; None: the sources of Python's standard library, ASCII only
        size: characters to use, from the beginning; None: all
        length: characters in a window
        test_fraction: fraction at the end that is the test part
        streams: number of parts of the text that are read side by side, batch after batch, for model.carry
    """

    path: str | None = None
    size: Count | None = None
    length: Count = 128
    test_fraction: Share = 0.1
    streams: Count | None = None

    def load(self) -> Splits:
        text = standard_library() if self.path is None else read(Path(self.path), self.size, self.allowance())
        text = text[: self.size]
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
        preparation = Preparation(Ids(len(classes)), classes=tuple(classes))
        item_bytes = len(text.encode()) / len(text)
        return Splits(train, None, overlapping(ids[cut:], self.length), tuple(classes), preparation, item_bytes)


def windows(ids: np.ndarray, length: int, stride: int) -> Dataset:
    """Examples of `length` characters, each `stride` after the one before."""
    x, y = (np.lib.stride_tricks.sliding_window_view(part, length)[::stride].copy() for part in (ids[:-1], ids[1:]))
    return Dataset(x, y, np.ones(x.shape, np.float32))


def in_streams(data: Dataset, streams: int) -> Dataset:
    """The examples in the order in which `streams` readers reach them, each in its own part of the text."""
    steps = len(data) // streams
    if steps == 0:
        raise InputError(f"streams={streams} are too many for a text of {len(data)} windows")
    return data.take(np.arange(steps * streams).reshape(streams, steps).T.ravel())


def overlapping(ids: np.ndarray, length: int) -> Dataset:
    """Windows that overlap by half. After the first, only the second half of a window counts."""
    stride = max(length // 2, 1)
    data = windows(ids, length, stride)
    mask = data.counting()
    mask[1:, : length - stride] = 0
    return Dataset(data.x, data.y, mask)


def read(path: Path, size: int | None, allowance: Allowance) -> str:
    """The first `size` characters of a text file, all for None. Raises InputError where they cannot be read."""
    with reading(path) as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        length = os.fstat(file.fileno()).st_size
        count = length if size is None else min(size, length)
        allowance.take(path, CHARACTER * count, f"a text of {count:,} characters")
        return text.read(size)


def standard_library() -> str:
    """The top-level modules of Python's standard library in alphabetical order, reduced to PLAIN characters."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
    return "".join(filter(set(PLAIN).__contains__, text))
