"""Files that appear whole or not at all: they are written aside, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Writes the content into a file beside `path`, then renames that file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)


def write_json(path: Path, data: Any) -> None:
    """Writes plain data as indented JSON."""
    write_whole(path, (json.dumps(data, indent=2) + "\n").encode())
