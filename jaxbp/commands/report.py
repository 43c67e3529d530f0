"""What a run, or several beside each other, show and what is wrong with them, in one HTML file:

    jaxbp report RUN [RUN ...] [--out=FILE]

Every run leaves a report.html. This command adds what needs the data: scores with intervals, confusion, calibration,
worst examples, weights, and whether data are mixed and apart. Runs that differ only in their seed share a curve
with its spread. The file opens anywhere, makes no request, and can be mailed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from jaxbp.commands import cli
from jaxbp.data.outside import located
from jaxbp.errors import InputError
from jaxbp.files import overwrite, write_whole
from jaxbp.training.folder import RunFolder
from jaxbp.training.report.of_run import FILE
from jaxbp.training.report.whole import whole_report
from jaxbp.typed import Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder; further ones may follow it
        out: the file; None: report.html in the first run folder
        code: run the code that the runs have kept, where their configs need classes of your own
        data: look at the data and at what the model makes of them
    """

    run: str = "runs/digits_mlp"
    out: cli.OutputFile | None = None
    code: bool = False
    data: bool = True


def main(words: Sequence[str]) -> int:
    """Writes the report that the words ask for, and returns the exit status."""
    runs = list(takewhile(lambda word: not word.startswith("-"), words))
    options = cli.read_all(Options, [*runs[:1], *words[len(runs) :]])
    folders = [RunFolder(located(run)) for run in runs or [options.run]]
    for folder in folders:
        if not folder.path.is_dir():
            raise InputError(f"there is no run folder {folder.path}")
    html, wrong = whole_report(folders, options.code, options.data)
    for name, text in wrong:
        print(f"{name}: {text}")
    file = Path(options.out) if options.out else folders[0].path / FILE
    (write_whole if options.out else overwrite)(file, html)
    print(file)
    return 0
