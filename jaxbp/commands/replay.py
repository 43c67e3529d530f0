"""Repeats the step at which a run stopped because something was not finite: jaxbp replay DIR"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.training.failure import replay
from jaxbp.training.folder import RunFolder
from jaxbp.typed import Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
        code: run the code that the run has kept, where its config needs classes of your own
    """

    run: str
    code: bool = False


def main(words: Sequence[str]) -> int:
    """Replays the run that the words name, and returns the exit status."""
    options = cli.read_all(Options, words)
    folder = RunFolder(Path(options.run))
    step, first = replay(folder.config(options.code), folder.path)
    print(f"step {step}: not finite first in {first}")
    return 0
