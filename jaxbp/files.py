"""Files that appear whole or not at all: they are written aside, then renamed. Their errors name them.

Where a folder is held, nothing is written below its name once that is another folder's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxbp.errors import InputError

HELD: dict[Path, dict[Path, tuple[int, int]]] = {}  # held folder -> {it and its lock: device and inode}


@contextmanager
def held(folder: Path, lock: Path) -> Iterator[None]:
    """Within it nothing is written below the folder once its name, or that of its lock, is another's or nobody's."""
    HELD[folder] = {path: _identity(path) for path in (folder, lock)}
    try:
        yield
    finally:
        del HELD[folder]


def check_held(path: Path) -> None:
    """Raises OSError where a held folder above `path`, or its lock, was moved, deleted or replaced."""
    for folder, identities in list(HELD.items()):
        if path.is_relative_to(folder):
            try:
                same = all(_identity(place) == identity for place, identity in identities.items())
            except OSError:
                same = False
            if not same:
                text = "it was moved, replaced or deleted, or its lock was; nothing more is written under its name"
                raise OSError(errno.ESTALE, text, str(folder))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@contextmanager
def naming(path: Path, done: str = "written") -> Iterator[None]:
    """An OSError that is raised within names `path`, whichever file the system named, and what cannot be `done`.

    It begins with check_held.
    """
    check_held(path)
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be {done}: {error.strerror or error}", str(path)) from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes the content into a file beside `path`, then renames that file. Links are followed.

    Both are on the disk when it returns. A device gets the content itself, and so does a pipe that somebody reads. An
    OSError names `path`.
    """
    with naming(path):
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
            with open(path, "wb", opener=open_at_once) as file:
                file.write(content)
            return
        target = path.resolve()
        short = zlib.crc32(os.fsencode(target.name))  # the name itself may be as long as any may be
        aside = target.with_name(f".{os.getpid()}.{short:08x}")
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except OSError:
            with suppress(OSError):  # the first error counts
                aside.unlink()
            raise
        sync_folder(target.parent)


def open_at_once(path: str, flags: int) -> int:
    """An opener for `open`. Raises OSError for a pipe that nobody reads, where the system's own would wait for ever."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a pipe, and nobody reads it", path) from error
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def overwrite(path: Path, content: bytes) -> None:
    """Writes a file of a run, whole. A link, a folder or a pipe of its name is none of the run's, and is put aside."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        set_aside(path)
    write_whole(path, content)


def make_folder(path: Path) -> None:
    """Makes a folder of a run where it is missing. A link or a file of its name is put aside, as in `overwrite`."""
    with naming(path, "made"):
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            set_aside(path)
        path.mkdir(exist_ok=True)


def set_aside(path: Path) -> Path:
    """Renames what this run has not written, or cannot read any more, and says so; -> its new path."""
    check_held(path)
    number = 0
    while os.path.lexists(target := path.with_name(f"refused.{path.name}" + (f".{number}" if number else ""))):
        number += 1
    path.rename(target)
    print(f"{path} is not what this run has written: it is now {target.name}", flush=True)
    return target


def sync_folder(folder: Path) -> None:
    """Waits until what was made, renamed and deleted in the folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Adds a line at the end of the file, whole or not at all. An OSError names `path`."""
    with naming(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(f"{line}\n".encode())
            file.flush()
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise


def write_json(path: Path, data: Any) -> None:
    """Writes plain data as indented JSON."""
    write_whole(path, as_json(data))


def as_json(data: Any) -> bytes:
    """Plain data as indented JSON."""
    return (json.dumps(data, indent=2) + "\n").encode()


def refuse_address(path: Path) -> None:
    """Raises InputError for an address such as gs://bucket/run, which would name a local folder 'gs:'."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise InputError(f"{path} is an address, and runs live in folders: mount the storage, or give a folder")
