"""Evaluates a finished run on its data: python scripts/evaluate.py --run=FOLDER [--config.data.path=FOLDER]"""
import json
from pathlib import Path

import cli
from absl import flags

from jaxbp.config import from_json, override
from jaxbp.errors import InputError
from jaxbp.train.evaluate import make_evaluation
from jaxbp.train.loop import restore

flags.DEFINE_string("run", "runs/digits_mlp", "the run folder")


def main(words: list[str]) -> int:
    folder = Path(flags.FLAGS.run)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a run folder: it has no config.json")
    config = override(from_json(json.loads((folder / "config.json").read_text())), words)
    splits = config.data.load()
    model, params, state = restore(folder, config, splits)
    evaluate = make_evaluation(model, config.loss, splits.classes is not None)
    for name in ("train", "validation", "test"):
        if part := getattr(splits, name):
            found = evaluate(params, state, part)
            print(f"{name:10s} {len(part):6d} examples  " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
    return 0


if __name__ == "__main__":
    cli.run(main)
