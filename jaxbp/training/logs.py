"""metrics.jsonl, timing.jsonl, health.jsonl: rows that are added one by one, bound by the checkpoints that follow them.

A checkpoint knows how long they were, and the sha256 of so much of them. What comes after is of steps that are made
again when the run goes on from there, and is cut. Only a run that looks at its health has the last of the three.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from jaxbp.files import overwrite, set_aside
from jaxbp.training.checkpoint import digest

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
HEALTH = "health.jsonl"
LOGS = (METRICS, TIMING, HEALTH)
EMPTY = (0, hashlib.sha256().hexdigest())  # what a checkpoint knows of a log that it does not name


def written(folder: Path) -> dict[str, list[Any]]:
    """{name: [bytes, sha256]} of all that are there, once they are on the disk."""
    files = {name: folder / name for name in LOGS if name != HEALTH or (folder / name).is_file()}
    return {name: [file.stat().st_size, digest(file, sync=True)] for name, file in files.items()}


def lost_rows(file: Path, facts: dict[str, Any]) -> str | None:
    """What is wrong with the rows of a log that a checkpoint knows; None: nothing."""
    name = file.name
    size = rows_bytes(name, facts)
    try:
        if file.stat().st_size < size:
            return f"{name} is shorter than the checkpoint says"
        if "logs" in facts:
            right = digest(file, size=size) == facts["logs"].get(name, EMPTY)[1]
            return None if right else f"{name} is not what was written"
        with contextlib.suppress(ValueError, RecursionError):
            rows = [json.loads(line) for line in file.read_bytes()[:size].splitlines()]
            return None if all(isinstance(row, dict) for row in rows) else f"{name} is damaged"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return f"{name} is damaged"


def cut(file: Path, facts: dict[str, Any] | None) -> None:
    """Cuts a file to the rows that the checkpoint knows; None: it knows none. One that has two names is copied first.

    A damaged timing.jsonl or health.jsonl is put aside, and a new one begins: nothing needs it. metrics.jsonl is not
    damaged, since the checkpoint would not be used then.
    """
    if file.name == HEALTH and not os.path.lexists(file):
        return
    if facts is None:
        overwrite(file, b"")
    elif file.name != METRICS and lost_rows(file, facts):
        if os.path.lexists(file):
            set_aside(file)
        overwrite(file, b"")
    elif file.name == METRICS or "logs" in facts:
        size = rows_bytes(file.name, facts)
        if file.is_symlink() or file.stat().st_nlink > 1:  # rows are added in place, and the other may be another run's
            overwrite(file, file.read_bytes()[:size])
        else:
            os.truncate(file, size)


def rows_bytes(name: str, facts: dict[str, Any]) -> int:
    """How long a log was at a checkpoint; an older version noted only metrics.jsonl."""
    if "logs" in facts:
        return int(facts["logs"].get(name, EMPTY)[0])
    return int(facts["metrics_bytes"] * (name == METRICS))
