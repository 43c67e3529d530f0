"""Files of token ids (.bin) in the three forms that trainers write; the magic number tells them apart.

| form    | header                                                        | ids    |
|---------|---------------------------------------------------------------|--------|
| raw     | none: nanoGPT                                                 | uint16 |
| llm.c   | 256 int32: 20240520, version 1, the number of ids, zeros      | uint16 |
| llama-3 | 256 int32: 20240801, version 7, the number of ids, zeros      | uint32 |

Everything is little-endian. Ids are read by their place in the file and never mapped into memory, where every page that
was once read would count as memory of the process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxbp.data.outside import located, reading
from jaxbp.errors import InputError

HEADER = 256 * 4  # bytes
LARGEST = 2**31 - 1  # ids in a file with a header, which counts them in an int32
CHOICES = 20240522  # llm.c's magic number of multiple-choice questions
PIECES = 1024  # of a file in its fingerprint
PIECE = 4096  # bytes
FormName = Literal["raw", "llm.c", "llama-3"]


class Form(NamedTuple):
    """One of the forms: its header's first two numbers, None where there is no header, and the type of an id."""

    magic: int | None
    version: int | None
    dtype: str


FORMS: dict[FormName, Form] = {
    "raw": Form(None, None, "<u2"),
    "llm.c": Form(20240520, 1, "<u2"),
    "llama-3": Form(20240801, 7, "<u4"),
}


@dataclass(frozen=True)
class TokenFile:
    """Where the ids of one file lie.

    form: of the file. count: ids in it.
    """

    path: Path
    form: FormName
    count: int

    @classmethod
    def open(cls, path: Path) -> TokenFile:
        """The file at `path`. Raises InputError where it cannot be read, is of another form, or has not the size that
        its header says."""
        path = located(path)
        with reading(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(HEADER)
        magic, version, count = np.frombuffer(start[:12], "<i4") if len(start) >= 12 else (0, 0, 0)
        if magic == CHOICES:
            raise InputError(f"{path}: holds multiple-choice questions (magic number {CHOICES}), and no running text")
        form: FormName = next((name for name, form in FORMS.items() if form.magic == magic), "raw")
        id_bytes = np.dtype(FORMS[form].dtype).itemsize
        if form == "raw":
            if size % id_bytes:
                raise InputError(f"{path}: has {size} bytes, and ids of uint16 without a header take an even number")
            return cls(path, form, size // id_bytes)
        if version != FORMS[form].version:
            raise InputError(f"{path}: is version {version} of the {form} form, and {FORMS[form].version} can be read")
        if size != HEADER + int(count) * id_bytes:
            raise InputError(
                f"{path}: has {size} bytes, and its header says {count} ids, which take "
                f"{HEADER + int(count) * id_bytes}: it was cut off or is damaged"
            )
        return cls(path, form, int(count))

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` ids from each of the places `starts` [N] on; int32 [N, length]."""
        dtype = np.dtype(FORMS[self.form].dtype)
        offset = 0 if self.form == "raw" else HEADER
        ids = np.empty((len(starts), length), dtype)
        with self.path.open("rb", buffering=0) as file:
            for row, start in zip(ids, starts.tolist(), strict=True):
                file.seek(offset + start * dtype.itemsize)
                if file.readinto(row) != row.nbytes:
                    raise InputError(f"{self.path}: has become shorter since it was opened")
        return ids.astype(np.int32)

    def __str__(self) -> str:
        return str(self.path)

    def pieces(self) -> list[bytes]:
        """What tells the file from another one."""
        return pieces_of(self.path)


@dataclass(frozen=True, eq=False)
class TokenArray:
    """Ids in memory [count], with the methods of a TokenFile."""

    ids: np.ndarray

    @property
    def count(self) -> int:
        """Ids in it."""
        return len(self.ids)

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` ids from each of the places `starts` [N] on; int32 [N, length]."""
        return self.ids[starts[:, None] + np.arange(length)].astype(np.int32)

    def pieces(self) -> list[bytes]:
        """All ids."""
        return [np.ascontiguousarray(self.ids).tobytes()]

    def __str__(self) -> str:
        return "the text"


def header(form: FormName, count: int) -> bytes:
    """The bytes before the ids of a file of so many."""
    if FORMS[form].magic is None:
        return b""
    numbers = np.zeros(HEADER // 4, "<i4")
    numbers[:3] = FORMS[form].magic, FORMS[form].version, count
    return numbers.tobytes()


def pieces_of(path: Path) -> list[bytes]:
    """The size of a file, and PIECES evenly spaced pieces, its beginning among them."""
    size = path.stat().st_size
    starts = np.unique(np.linspace(0, max(size - PIECE, 0), PIECES).astype(np.int64))
    pieces = [str(size).encode()]
    with path.open("rb", buffering=0) as file:
        for start in starts.tolist():
            file.seek(start)
            pieces.append(file.read(PIECE))
    return pieces
