"""Checks a run folder, or all run folders below a folder:

    jaxbp fsck [DIR]

A line says of each run whether it is whole, and further lines what is damaged, what of that the training command makes
again, and what is not needed. Nothing is changed. The exit status is 1 where anything is damaged that a run needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.errors import InputError
from jaxbp.training.fsck import inspect, run_folders
from jaxbp.typed import Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: a run folder, or a folder with run folders below it
    """

    run: str = "runs"


def main(words: Sequence[str]) -> int:
    """Checks what the words name, and returns the exit status."""
    options = cli.read_all(Options, words)
    path = Path(options.run)
    if not path.is_dir():
        raise InputError(f"--run: there is no folder {path}")
    folders = run_folders(path)
    if not folders:
        raise InputError(f"there is no run in {path} or below it")
    damaged = 0
    for folder in folders:
        findings = inspect(folder)
        bad = sum(finding.state == "damaged" for finding in findings)
        again = sum(finding.state == "can be made again" for finding in findings)
        words = [f"{bad} damaged"] * (bad > 0) + [f"{again} can be made again"] * (again > 0)
        print(f"{folder}: {', '.join(words) or 'whole'}")
        for finding in findings:
            if finding.state != "whole":
                print(finding)
        damaged += bad > 0
    print(f"{len(folders)} run{'s' * (len(folders) > 1)}, {damaged} damaged")
    return 1 if damaged else 0
