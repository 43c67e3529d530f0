"""Repeats the step at which a run stopped because something was not finite: jaxbp replay DIR"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.train.failure import replay
from jaxbp.train.run import RunFolder
from jaxbp.typed import Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
    """

    run: str


def main(words: Sequence[str]) -> int:
    """Replays the run that the words name, and returns the exit status."""
    folder = RunFolder(Path(cli.read_all(Options, words).run))
    step, first = replay(folder.config(), folder.path)
    print(f"step {step}: not finite first in {first}")
    return 0
