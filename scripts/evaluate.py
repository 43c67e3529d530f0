"""Scores a finished run on its data: python scripts/evaluate.py --run=FOLDER [--config.data.path=FOLDER]

Every part gets a line; the test part of a classification also a table, confusion.png and calibration.png. A network on
images also has filters.png, activations.png of the first test image, and mistakes.png. All numbers are in scores.json.
The files go into the run folder.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from absl import flags

from jaxbp.commands import cli
from jaxbp.config import override
from jaxbp.core import Layer, PyTree
from jaxbp.data import Splits
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.train.evaluate import make_prediction, predicted_class, true_class
from jaxbp.train.report import pictures
from jaxbp.train.report.scores import draw, measure
from jaxbp.train.run import fingerprint, load

flags.DEFINE_string("run", "runs/digits_mlp", "the run folder")


def main(words: list[str]) -> int:
    folder = Path(flags.FLAGS.run)
    for word in words:
        if not word.startswith("--config.data."):
            raise InputError(f"{word} cannot change here: the run's own config holds, apart from --config.data.*")
    model, params, state, config, data, _ = load(folder)
    splits = override(config, words).data.load()
    if fingerprint(splits) != data:
        print("these are not the data that the run was trained on: parts may overlap")
    predict, lines, found = make_prediction(model), [], {}
    for name in ("train", "validation", "test"):
        if part := getattr(splits, name):
            y = predict(params, state, part.x)
            counts = part.counting() > 0
            y, target, items = y[counts], part.y[counts], int(counts.sum())  # time steps are items as rows are
            loss = float(config.loss.forward(y, target, np.full(items, 1 / items, np.float32))[0])
            scores = measure(y, target, config.loss, splits.classes)
            lines.append(f"{name:10s} {items:6d} examples  loss {loss:.4f}  {scores}")
            found[name] = {"examples": items, "loss": loss} | asdict(scores)
    write_json(folder / "scores.json", found)
    if splits.classes:
        draw(scores, folder)
        print(f"Test part, drawn in {folder}:\n{scores.table()}")
        if scores.calibration is None:
            print(f"No calibration: {type(config.loss).__name__} does not make these outputs probabilities.")
        print()
    if splits.test.x.ndim == 4:
        draw_images(folder, model, params, state, splits, y, config.loss.threshold)
    print(*lines, sep="\n")
    return 0


def draw_images(
    folder: Path, model: Layer, params: PyTree, state: PyTree, splits: Splits, y: np.ndarray, threshold: float
) -> None:
    """What can be seen of a network on images, and of its outputs y on the test part."""
    test = splits.test
    pictures.draw_filters(params, folder / "filters.png")
    pictures.draw_activations(model, params, state, test.x[0], folder / "activations.png")
    if splits.classes:
        true, predicted = (a.astype(int) for a in (true_class(y, test.y), predicted_class(y, threshold)))
        pictures.draw_mistakes(test.x, true, predicted, splits.classes, folder / "mistakes.png")


if __name__ == "__main__":
    cli.run(main)
