"""Trains an experiment: python scripts/train.py [--config=FILE] [--workdir=DIR] [--config.KEY=VALUE ...]"""
from pathlib import Path

import cli
from absl import flags

from jaxbp.train.loop import train

flags.DEFINE_string("config", "configs/digits_mlp.py", "the experiment")
flags.DEFINE_string("workdir", None, "the run folder; default runs/NAME of the config")


def main(words: list[str]) -> int:
    config = cli.config(words)
    folder = Path(flags.FLAGS.workdir or f"runs/{Path(flags.FLAGS.config).stem}")
    try:
        row = train(config, folder)
    except FloatingPointError as error:
        print(f"error: {error}")
        return 1
    print(f"run folder {folder}")
    name = "accuracy" if "test_accuracy" in row else "loss"
    print(f"test {name} {row[f'test_{name}']:.4f}")
    return 0


if __name__ == "__main__":
    cli.run(main)
