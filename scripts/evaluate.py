"""Scores a finished run on its data: python scripts/evaluate.py --run=FOLDER [--config.data.path=FOLDER]

Every part gets a line; the test part of a classification also a table, confusion.png and calibration.png. All numbers
are in scores.json. The files go into the run folder.
"""
from dataclasses import asdict
from pathlib import Path

import cli
import numpy as np
from absl import flags

from jaxbp.config import override
from jaxbp.errors import InputError
from jaxbp.train.evaluate import make_prediction
from jaxbp.train.files import write_json
from jaxbp.train.run import fingerprint, load
from jaxbp.train.scores import draw, measure

flags.DEFINE_string("run", "runs/digits_mlp", "the run folder")


def main(words: list[str]) -> int:
    folder = Path(flags.FLAGS.run)
    for word in words:
        if not word.startswith("--config.data."):
            raise InputError(f"{word} cannot change here: the run's own config holds, apart from --config.data.*")
    model, params, state, config, data = load(folder)
    splits = override(config, words).data.load()
    if fingerprint(splits) != data:
        print("these are not the data that the run was trained on: parts may overlap")
    predict, lines, found = make_prediction(model), [], {}
    for name in ("train", "validation", "test"):
        if part := getattr(splits, name):
            y = predict(params, state, part.x)
            loss = float(config.loss.forward(y, part.y, np.full(len(part), 1 / len(part), np.float32))[0])
            scores = measure(y, part.y, config.loss, splits.classes)
            lines.append(f"{name:10s} {len(part):6d} examples  loss {loss:.4f}  {scores}")
            found[name] = {"examples": len(part), "loss": loss} | asdict(scores)
    write_json(folder / "scores.json", found)
    if splits.classes:
        draw(scores, folder)
        print(f"Test part, drawn in {folder}:\n{scores.table()}")
        if scores.calibration is None:
            print(f"No calibration: {type(config.loss).__name__} does not make these outputs probabilities.")
        print()
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    cli.run(main)
