"""Predictions of a finished run for new rows, as they come, without the run's data:

jaxbp predict --run=DIR --input=FILE --output=FILE.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.programs import keep_programs
from jaxbp.training.folder import RunFolder
from jaxbp.training.predict import predict_file
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
        input: the file with the rows, of the kind that the run was trained on
        output: the CSV file to write
        code: run the code that the run has kept, where its config needs classes of your own
        step: that of an older checkpoint; None: the newest
    """

    run: str
    input: str
    output: cli.OutputFile
    code: bool = False
    step: Count | None = None


def main(words: Sequence[str]) -> int:
    """Predicts what the words say, and returns the exit status."""
    options = cli.read_all(Options, words)
    keep_programs(RunFolder(Path(options.run)).config(options.code))
    predict_file(options.run, options.input, options.output, options.code, options.step)
    print(f"predictions in {options.output}")
    return 0
