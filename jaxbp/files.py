"""Files that appear whole or not at all: they are written aside, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Writes the content into a file beside `path`, then renames that file. Links are followed.

    A device or a pipe gets the content itself. An OSError names `path`.
    """
    if path.is_relative_to("/dev") or (path.exists() and not path.is_file()):
        path.write_bytes(content)
        return
    target = path.resolve()
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise type(error)(error.errno, f"cannot be written: {error.strerror}", str(path)) from error


def write_json(path: Path, data: Any) -> None:
    """Writes plain data as indented JSON."""
    write_whole(path, as_json(data))


def as_json(data: Any) -> bytes:
    """Plain data as indented JSON."""
    return (json.dumps(data, indent=2) + "\n").encode()
