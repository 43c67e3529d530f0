"""Files that appear whole or not at all: they are written aside, then renamed. Their errors name them."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxbp.errors import InputError


@contextmanager
def naming(path: Path, done: str = "written") -> Iterator[None]:
    """An OSError that is raised within names `path`, whichever file the system named, and what cannot be `done`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot be {done}: {error.strerror or error}", str(path)) from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes the content into a file beside `path`, then renames that file. Links are followed.

    Both are on the disk when it returns. A device or a pipe gets the content itself. An OSError names `path`.
    """
    with naming(path):
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
            path.write_bytes(content)
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
