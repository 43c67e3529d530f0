"""Trains an experiment: python scripts/train.py [--config=FILE] [--workdir=DIR] [--config.KEY=VALUE ...]"""

from pathlib import Path

from absl import flags

from jaxbp.commands import cli
from jaxbp.train.cross_validate import cross_validate
from jaxbp.train.loop import NotFinite, train

flags.DEFINE_string("config", "configs/digits_mlp.py", "the experiment")
flags.DEFINE_string("workdir", None, "the run folder, runs/NAME of the config by default; a run in it is resumed")
flags.DEFINE_integer("folds", None, "cross-validate in this many folds, each a run of its own", lower_bound=2)
flags.DEFINE_bool("fresh", False, "delete the run in the folder and start over")


def main(words: list[str]) -> int:
    config = cli.config(words)
    folder = Path(flags.FLAGS.workdir or f"runs/{Path(flags.FLAGS.config).stem}")
    try:
        if folds := flags.FLAGS.folds:
            return show_folds(cross_validate(config, folder, folds, flags.FLAGS.fresh), folds)
        row = train(config, folder, flags.FLAGS.fresh)
    except NotFinite as error:
        print(f"error: {error}")
        return 1
    print(f"run folder {folder}")
    name = "accuracy" if "test_accuracy" in row else "loss"
    print(f"test {name} {row[f'test_{name}']:.4f}")
    return 0


def show_folds(figures: dict[str, float], folds: int) -> int:
    name = "accuracy" if "test_accuracy_mean" in figures else "loss"
    mean = figures[f"test_{name}_mean"]
    deviation = figures[f"test_{name}_stdev"]
    print(f"cross-validated {name} {mean:.4f} (standard deviation {deviation:.4f} over {folds} folds)")
    return 0


if __name__ == "__main__":
    cli.run(main)
