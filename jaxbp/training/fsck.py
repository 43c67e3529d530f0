"""What of a run folder is whole, what is damaged, and what of that can be made again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from jaxbp.errors import InputError
from jaxbp.training.checkpoint import Checkpoints, Damaged, read_json, refuse_devices, verify
from jaxbp.training.folder import SOURCES
from jaxbp.training.identity import FILE, FILES, Identity, is_config, owner
from jaxbp.training.lock import reading
from jaxbp.training.logs import HEALTH, METRICS, TIMING, lost_rows, rows_bytes

State = Literal["whole", "damaged", "can be made again", "not needed"]
AGAIN = "the training command writes it again"


DRAWN_BY = {"curves.png": "training", "deltas.png": "training", "attention.png": "attention"} | dict.fromkeys(
    ("slice_1d.png", "slice_2d.png", "boundary.png", "weight.png"), "surface"
)  # a picture -> the command


@dataclass(frozen=True)
class Finding:
    """The state of one file of a run, or of one checkpoint. "damaged" is what the run needs and cannot make again."""

    path: Path
    state: State
    text: str = ""

    def __str__(self) -> str:
        return f"  {self.state:18s} {self.path}" + (f": {self.text}" if self.text else "")


def run_folders(path: Path) -> list[Path]:
    """The folders in which there is a run, or what is left of one: `path` itself, and all below it.

    The folders that a run keeps its own files in are not looked through.
    """
    runs = []
    for name, below, _ in os.walk(path):
        folder = Path(name)
        if os.path.lexists(folder / FILE) or is_config(folder) or Checkpoints(folder / "checkpoints").paths():
            runs.append(folder)
            below[:] = [name for name in below if name not in FILES]
    return sorted(runs)


def inspect(folder: Path) -> list[Finding]:
    """The findings on a run folder. It is read only, and a process may train there meanwhile."""
    with reading(folder / "checkpoints"):
        return list(_findings(folder))


def _findings(folder: Path) -> Iterator[Finding]:
    try:
        identity = owner(folder)
    except InputError as error:
        yield Finding(folder, "damaged", str(error))
        return
    if identity is None:
        yield Finding(folder, "damaged", "there is no run in it")
        return
    if identity.clearing:
        yield Finding(folder, "can be made again", "a start-over was cut off: the training command goes on with it")
        return
    if identity.source != "file":
        yield Finding(folder / FILE, "can be made again", SOURCES[identity.source])
    checkpoints = list(Checkpoints(folder / "checkpoints", identity.runs).read())
    whole = [facts for _, facts in checkpoints if not isinstance(facts, Damaged)]
    yield from _session_files(folder, identity, whole)
    yield from _checkpoints(folder, identity, checkpoints)
    yield from _logs(folder, whole)
    yield from _others(folder)


def _session_files(folder: Path, identity: Identity, whole: list[dict[str, Any]]) -> Iterator[Finding]:
    """Those that each session writes: the checkpoints have copies of all but the code."""
    for name in identity.files:
        problem = identity.problem(folder / name, name)
        again = name in ("preparation.json", "provenance.json") or (name == "config.json" and whole)
        if problem is None:
            yield Finding(folder / name, "whole")
        elif again:
            yield Finding(folder / name, "can be made again", f"{problem}; {AGAIN}")
        else:
            yield Finding(folder / name, "damaged", problem)


def _checkpoints(
    folder: Path, identity: Identity, checkpoints: list[tuple[Path, dict[str, Any] | Damaged]]
) -> Iterator[Finding]:
    """The newest one is needed: where it is damaged, a training command repeats the steps from the one before."""
    usable = False
    for path, facts in checkpoints:
        if not isinstance(facts, Damaged):
            yield Finding(path, "whole")
            usable = True
        else:
            yield Finding(path, "not needed" if usable else "damaged", str(facts))
    if not checkpoints and identity.saved:
        yield Finding(folder / "checkpoints", "damaged", "the run had checkpoints, and there is none")


def _logs(folder: Path, whole: list[dict[str, Any]]) -> Iterator[Finding]:
    """What the newest whole checkpoint knows of them; metrics.jsonl can be made again from an older one."""
    if not whole:
        return
    problem = lost_rows(folder / METRICS, whole[0])
    older = [facts for facts in whole[1:] if lost_rows(folder / METRICS, facts) is None]
    if problem is None:
        yield Finding(folder / METRICS, "whole")
    elif older:
        text = f"{problem}; the training command makes its rows again from step {older[0]['step']} on"
        yield Finding(folder / METRICS, "can be made again", text)
    else:
        yield Finding(folder / METRICS, "damaged", problem)
    for name in (TIMING, HEALTH):
        if name == TIMING or rows_bytes(name, whole[0]):
            problem = lost_rows(folder / name, whole[0]) if "logs" in whole[0] else None
            yield Finding(folder / name, "not needed" if problem else "whole", problem or "")


def _others(folder: Path) -> Iterator[Finding]:
    """The bundle of a failing step, what commands have drawn, and what a killed process or a refusal left."""
    if (folder / "failure").is_dir():
        problem = verify(folder / "failure")
        text = f"{problem}; without it replay cannot repeat the step" if problem else ""
        yield Finding(folder / "failure", "not needed" if problem else "whole", text)
    for name in FILES:
        file = folder / name
        if file.suffix == ".png" and os.path.lexists(file):
            problem = _picture_problem(file)
            command = DRAWN_BY.get(name, "evaluate")
            text = f"{problem}; the {command} command draws it again" if problem else ""
            yield Finding(file, "can be made again" if problem else "whole", text)
    if os.path.lexists(folder / "scores.json"):
        try:
            read_json(folder / "scores.json")
            yield Finding(folder / "scores.json", "whole")
        except Damaged as error:
            yield Finding(folder / "scores.json", "can be made again", f"{error}; evaluate writes it again")
    for path in sorted([*folder.glob("refused.*"), *folder.glob("checkpoints/*.*")]):
        yield Finding(path, "not needed", "left over")


def _picture_problem(file: Path) -> str | None:
    try:
        refuse_devices(file)
        with Image.open(file) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        return f"is no picture ({error})"
    return None
