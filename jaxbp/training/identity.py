"""Whose a folder is: run.json names the run, and binds what each of its sessions has written.

The name is random. It stands in the facts of every checkpoint too, so that no other run's checkpoint counts. run.json
is written whole, and starting a run over is this one write: before it the folder holds the old run, after it none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxbp.errors import InputError
from jaxbp.files import as_json, overwrite
from jaxbp.training.checkpoint import Checkpoints, Damaged, digest, read_facts, read_json

FILE = "run.json"
POINTS = "points.jsonl"  # the runs of a search, in its folder
OLD = ""  # the name of a run of a version that had no names
FILES = (
    "config.json",
    "preparation.json",
    "code",
    "provenance.json",
    "metrics.jsonl",
    "timing.jsonl",
    "health.jsonl",
    "curves.png",
    "checkpoints",
    "failure",
    "scores.json",
    "confusion.png",
    "calibration.png",
    "filters.png",
    "weights.png",
    "activations.png",
    "mistakes.png",
    "deltas.png",
    "sample.txt",
    "samples",
    "attention.png",
    "report.html",
    "slice_1d.png",
    "slice_2d.png",
    "boundary.png",
    "weight.png",
)  # the names that are a run's in its folder


@dataclass(frozen=True)
class Identity:
    """What run.json holds."""

    runs: tuple[str, ...]  # the run's name, and a name that it had before
    saved: bool = False  # whether there was a checkpoint
    clearing: tuple[str, ...] = ()  # names of the run that is being deleted, for this one
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # the sha256 that a session's files may have
    source: Literal["file", "checkpoints", "old"] = "file"  # where it was read: "old" is a run that has no run.json

    @classmethod
    def new(cls) -> Identity:
        """One that no other run has."""
        return cls((secrets.token_hex(16),))

    @classmethod
    def read(cls, folder: Path) -> Identity:
        """The identity in run.json. Raises Damaged where it is missing, or not as it was written."""
        data = read_json(folder / FILE)
        if not isinstance(data, dict) or data.pop("sha256", None) != _seal(data):
            raise Damaged("it is not what was written")
        try:
            files = {name: tuple(digests) for name, digests in data["files"].items()}
            identity = cls(tuple(data["runs"]), data["saved"], tuple(data["clearing"]), files)
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged("it is not what was written") from error
        names = (*identity.runs, *identity.clearing)
        if not identity.runs or not all(map(is_name, names)) or not all(map(is_session_file, files)):
            raise Damaged("it is not what was written")  # names become paths, where things are deleted
        return identity

    def write(self, folder: Path) -> None:
        """Writes run.json, whole."""
        data = asdict(self)
        del data["source"]
        overwrite(folder / FILE, as_json(data | {"sha256": _seal(data)}))

    def problem(self, file: Path, name: str) -> str | None:
        """What is wrong with one of the files that a session writes; None for one that is as it was written."""
        if name not in self.files:
            return None
        try:
            return None if digest(file) in self.files[name] else "is not what was written"
        except OSError as error:
            return f"cannot be read ({error.strerror})"


def is_name(run: Any) -> bool:
    """Whether it is the name of a run, as Identity.new makes it, or OLD."""
    return isinstance(run, str) and re.fullmatch("([0-9a-f]{32})?", run) is not None


def is_session_file(name: str) -> bool:
    """Whether a session writes such a file: one of FILES, or one in code/."""
    return name in FILES or re.fullmatch(r"code/[^/\0]+\.py", name) is not None


def owner(folder: Path) -> Identity | None:
    """Whose the folder is; None where there is no run in it.

    Where run.json is missing or damaged, the checkpoints tell it. A folder with a config.json of jaxbp and without
    run.json is of a version that had none. Raises InputError for files that look like a run's and are nobody's.
    """
    try:
        return Identity.read(folder)
    except Damaged as error:
        problem = str(error) if os.path.lexists(folder / FILE) else "is missing"
    runs = set()
    for path in Checkpoints(folder / "checkpoints").paths():
        with contextlib.suppress(Damaged):
            facts = read_facts(path)
            if {"data", "machine"} <= facts.keys() and is_name(facts.get("run", OLD)):
                runs.add(facts.get("run", OLD))
    if len(runs) == 1:
        run = runs.pop()
        return Identity((run,), saved=True, source="checkpoints" if run else "old")
    if not runs and is_config(folder):
        return Identity((OLD,), source="old")
    present = [name for name in (*FILES, FILE) if os.path.lexists(folder / name)]
    if present:
        several = "its checkpoints are of several runs" if runs else f"it has {present[0]}"
        raise InputError(
            f"{folder} is not the folder of one run: {several}, and {FILE}, which names the run, {problem}; "
            "--workdir=DIR puts this run elsewhere"
        )
    return None


def is_config(folder: Path) -> bool:
    """Whether the folder's config.json is one of jaxbp's."""
    try:
        data = read_json(folder / "config.json")
    except Damaged:
        return False
    return isinstance(data, dict) and data.get("type") == "Config"


def _seal(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
