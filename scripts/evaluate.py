"""Scores a finished run on its data: python scripts/evaluate.py --run=FOLDER [--config.data.path=FOLDER]

Every part gets a line. The test part of a classification also gets a table, confusion.png and calibration.png. A
network on images also gets filters.png, activations.png of the first test image, and mistakes.png. scores.json has all
numbers. The files go into the run folder.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from absl import flags

from jaxbp.commands import cli
from jaxbp.config import override
from jaxbp.data import Dataset, Splits
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.train.evaluate import make_prediction, predicted_class, true_class
from jaxbp.train.report import pictures
from jaxbp.train.report.scores import Classification, Regression, draw, measure
from jaxbp.train.run import Loaded, fingerprint, load

flags.DEFINE_string("run", "runs/digits_mlp", "the run folder")


def main(words: list[str]) -> int:
    folder = Path(flags.FLAGS.run)
    for word in words:
        if not word.startswith("--config.data."):
            raise InputError(f"{word} cannot change here: the run's own config holds, apart from --config.data.*")
    run = load(folder)
    splits = override(run.config, words).data.load()
    if fingerprint(splits) != run.data:
        print("these are not the data that the run was trained on: parts may overlap")
    predict = make_prediction(run.model)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    lines, report = [], {}
    for name, part in parts.items():
        if part is None:
            continue
        y = predict(run.params, run.state, part.x)
        items, loss, scores = scored(run, part, y, splits.classes)
        lines.append(f"{name:10s} {items:6d} examples  loss {loss:.4f}  {scores}")
        report[name] = {"examples": items, "loss": loss} | asdict(scores)
        if name == "test":
            draw_test(folder, run, splits, y, scores)
    write_json(folder / "scores.json", report)
    print(*lines, sep="\n")
    return 0


def scored(
    run: Loaded, part: Dataset, y: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[int, float, Classification | Regression]:
    """(items, mean loss, scores) of the outputs y on a part of the data; a time step that counts is an item."""
    batch = part.batch()
    loss, _ = run.config.loss.forward(y, batch["y"], batch["weight"])
    counts = batch["weight"] > 0
    return int(counts.sum()), float(loss), measure(y[counts], part.y[counts], run.config.loss, classes)


def draw_test(folder: Path, run: Loaded, splits: Splits, y: np.ndarray, scores: Classification | Regression) -> None:
    """The pictures and the table of the test part, on which the outputs are y."""
    if isinstance(scores, Classification):
        draw(scores, folder)
        print(f"Test part, drawn in {folder}:\n{scores.table()}")
        if scores.calibration is None:
            print(f"No calibration: {type(run.config.loss).__name__} does not make these outputs probabilities.")
        print()
    if splits.test.x.ndim == 4:
        draw_images(folder, run, splits, y)


def draw_images(folder: Path, run: Loaded, splits: Splits, y: np.ndarray) -> None:
    """What can be seen of a network on images, and of its outputs y on the test part."""
    test = splits.test
    pictures.draw_filters(run.params, folder / "filters.png")
    pictures.draw_activations(run.model, run.params, run.state, test.x[0], folder / "activations.png")
    if splits.classes:
        true = true_class(y, test.y).astype(int)
        predicted = predicted_class(y, run.config.loss.threshold).astype(int)
        pictures.draw_mistakes(test.x, true, predicted, splits.classes, folder / "mistakes.png")


if __name__ == "__main__":
    cli.run(main)
