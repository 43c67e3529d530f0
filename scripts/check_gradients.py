"""Checks an experiment's gradient, leaf by leaf, in float64:

    python scripts/check_gradients.py --config=FILE [--level=full] [--json=FILE] [--config.KEY=VALUE ...]

It is compared with jax.grad of the same forward and with central differences. The report names the likely cause of a
wrong leaf, and the exit status is then 1. --level=full also checks other precisions, batches, transformations and hard
points.
"""

from pathlib import Path

from absl import flags

from jaxbp.commands import cli
from jaxbp.commands.check_gradients import check_config
from jaxbp.files import write_json
from jaxbp.machine import machine

flags.DEFINE_string("config", "configs/digits_mlp.py", "the experiment")
flags.DEFINE_enum("level", "default", ["default", "full"], "how much is checked")
flags.DEFINE_string("json", None, "also write the table to this file")


def main(words: list[str]) -> int:
    report = check_config(cli.config(words), flags.FLAGS.level)
    print(report)
    if flags.FLAGS.json:
        write_json(Path(flags.FLAGS.json), {"machine": machine(), **report.to_json()})
    return 0 if report.passed else 1


if __name__ == "__main__":
    cli.run(main)
