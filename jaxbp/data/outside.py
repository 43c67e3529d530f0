"""Files from outside. Only regular files are opened, they take no more memory than is allowed, and whatever is wrong
with one is an error of one line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from jaxbp.data.checks import unreadable
from jaxbp.errors import InputError
from jaxbp.machine import memory

CELL = 144  # bytes that a cell of a table takes beside its own: in its row and column, as text, as a number
PREPARED = 24  # bytes that a value takes beside its own while it is split, scaled and cast to float32


class Allowance:
    """The memory that reading one data set may take. Each reader asks for what it needs before it takes it.

    Args:
        size: bytes; None: half of the machine's memory
        remedy: what helps where they are not enough
    """

    def __init__(self, size: int | None = None, remedy: str = "give it in smaller files") -> None:
        self.size = size or memory() // 2
        self.remedy = remedy
        self.taken = 0

    def take(self, path: str | Path, needed: int, why: str) -> None:
        """Takes so many bytes more. Raises InputError, with the file and why it needs them, where they are too many."""
        self.check(path, needed, why)
        self.taken += needed

    def check(self, path: str | Path, needed: int, why: str) -> None:
        """The error of `take`, without taking anything."""
        if self.taken + needed > self.size:
            raise InputError(
                f"{path}: {why}; to read that takes {self.taken + needed:,} bytes of memory, and {self.size:,} are "
                f"allowed ({self.remedy})"
            )


@contextmanager
def reading(path: str | Path, allowance: Allowance | None = None) -> Iterator[BufferedReader]:
    """The regular file at `path`, open for reading in binary. "~" at the beginning is the home folder.

    Whatever a decoder raises inside is the file's fault, and becomes an InputError that names the file. Raises
    InputError too for a device, a pipe or a folder. With `allowance`, for what reads the file as a whole, also for one
    that is larger than the memory that may be taken.
    """
    try:
        place = located(path)
        if not stat.S_ISREG((status := os.stat(place)).st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise InputError(f"{path} is {kind}, and must be a file")
        if allowance:
            allowance.check(path, status.st_size, f"the file has {status.st_size:,} bytes")
        with place.open("rb") as file:
            yield file
    except InputError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def located(path: str | Path) -> Path:
    """The path with its user's home folder in place of "~". Raises InputError where there is no such user, and for a
    name that no file can have."""
    try:
        place = Path(path).expanduser()
        if "\0" in str(path):
            raise ValueError("it holds a NUL character")
        os.fsencode(place)
        place.exists()  # raises OSError for a name that is too long
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} names no file or folder ({getattr(error, 'strerror', None) or error})") from error
    return place
