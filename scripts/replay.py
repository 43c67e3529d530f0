"""Repeats the step at which a run stopped because something was not finite: python scripts/replay.py --run=FOLDER"""

from pathlib import Path

from absl import flags

from jaxbp.commands import cli
from jaxbp.train.failure import replay
from jaxbp.train.run import RunFolder

flags.DEFINE_string("run", None, "the run folder", required=True)


def main(words: list[str]) -> int:
    folder = RunFolder(Path(flags.FLAGS.run))
    step, first = replay(folder.config(), folder.path)
    print(f"step {step}: not finite first in {first}")
    return 0


if __name__ == "__main__":
    cli.run(main)
