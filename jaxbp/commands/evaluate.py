"""Scores a finished run on its data:

    jaxbp evaluate [DIR] [--config.data.path=FOLDER]

Every part gets a line. The test part of a classification also gets a table, confusion.png and calibration.png. A
network on images also gets weights.png. Where they are [H, W, C] it gets filters.png, activations.png of the first
test image, and mistakes.png too. scores.json has all numbers. Token files get a line for each part alone, of as many
training windows as test windows. The files go into the run folder. Of the run's config only the data can change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxbp.commands import cli
from jaxbp.data import Dataset, Splits
from jaxbp.data.outside import located
from jaxbp.data.stream import Stream
from jaxbp.errors import InputError
from jaxbp.files import as_json, overwrite
from jaxbp.programs import keep_programs
from jaxbp.training.evaluate import make_evaluation, make_prediction, predicted_class, train_sample, true_class
from jaxbp.training.fit import check_data
from jaxbp.training.report import pictures
from jaxbp.training.report.curves import as_text
from jaxbp.training.report.language import bits_per_byte
from jaxbp.training.report.scores import Classification, Regression, draw, measure
from jaxbp.training.report.weights import draw_weights
from jaxbp.training.run import Trained, fingerprint, load
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Options(Typed):
    """The options of the command.

    Args:
        run: the run folder
        code: run the code that the run has kept, where its config needs classes of your own
        step: that of an older checkpoint; None: the newest
    """

    run: str = "runs/digits_mlp"
    code: bool = False
    step: Count | None = None


def main(words: Sequence[str]) -> int:
    """Scores the run that the words name, and returns the exit status."""
    options, overrides = cli.read(Options, words)
    for word in overrides:
        if not word.startswith("--config.data."):
            raise InputError(f"{word} cannot change here: the run's own config holds, apart from --config.data.*")
    folder = located(options.run)
    run = load(folder, options.code, options.step)
    keep_programs(run.config)
    splits = cli.override(run.config, overrides, options).load_data()
    check_data(run, splits)
    if fingerprint(splits) != run.data:
        print("these are not the data that the run was trained on: parts may overlap")
    if isinstance(splits.train, Stream) and splits.train.steps:
        report = scores_of_text(run, splits)
        overwrite(folder / "scores.json", as_json(report))
        return 0
    predict = make_prediction(run.model)
    train = train_sample(splits) if isinstance(splits.train, Stream) else splits.train
    parts = {"train": train, "validation": splits.validation, "test": splits.test}
    lines = []
    report = {}
    for name, part in parts.items():
        if part is None:
            continue
        y = predict(run.params, run.state, part.x)
        items, loss, scores = scored(run, part, y, splits.classes)
        lines.append(f"{name:10s} {items:6d} examples  loss {as_text(loss)}  {scores}")
        report[name] = {"examples": items, "loss": loss} | asdict(scores)
    if isinstance(scores, Classification):
        print(f"Test part, drawn in {folder}:\n{scores.table()}")
        if scores.calibration is None:
            print(f"No calibration: {type(run.config.loss).__name__} does not make these outputs probabilities.")
        print()
    print(*lines, sep="\n", flush=True)  # before anything is written, for a folder that takes nothing
    if isinstance(scores, Classification):
        draw(scores, folder)
    if pictures.image_shape(splits.test.x):
        draw_weights(run, splits.test.x, folder / "weights.png")
    if splits.test.x.ndim == 4:
        draw_images(folder, run, splits, y)
    overwrite(folder / "scores.json", as_json(report))
    return 0


def scores_of_text(run: Trained, splits: Splits) -> dict[str, dict[str, float]]:
    """Prints and returns loss, accuracy and bits per byte, those of training on as many windows as the test part has.

    Nothing of the size of all windows times all ids is made.
    """
    evaluate = make_evaluation(run.model, run.config.loss, True)
    parts = {"train": train_sample(splits), "test": splits.test}
    report = {}
    for name, part in parts.items():
        figures = evaluate(run.params, run.state, part)
        figures |= bits_per_byte(run.config.loss, figures["loss"], splits.item_bytes)
        text = "  ".join(f"{key.replace('_', ' ')} {as_text(value)}" for key, value in figures.items())
        print(f"{name:10s} {part.y.size:6d} examples  {text}")
        report[name] = {"examples": part.y.size} | figures
    return report


def scored(
    run: Trained, part: Dataset, y: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[int, float, Classification | Regression]:
    """(items, mean loss, scores) of the outputs y on a part of the data; a time step that counts is an item."""
    batch = part.batch()
    loss, _ = run.config.loss.forward(jnp.asarray(y), jnp.asarray(batch["y"]), jnp.asarray(batch["weight"]))
    counts = batch["weight"] > 0
    outputs = run.config.loss.prediction(y[counts])
    targets = part.y[counts]
    if classes is None and run.preparation:  # in their own units, as predictions are
        outputs, targets = run.preparation.targets(outputs), run.preparation.targets(targets)
    return int(counts.sum()), float(loss), measure(outputs, targets, run.config.loss, classes)


def draw_images(folder: Path, run: Trained, splits: Splits, y: np.ndarray) -> None:
    """What can be seen of a network on images, and of its outputs y on the test part."""
    test = splits.test
    pictures.draw_filters(run.params, folder / "filters.png")
    pictures.draw_activations(run.model, run.params, run.state, test.x[0], folder / "activations.png")
    if splits.classes:
        true = true_class(y, test.y).astype(int)
        predicted = predicted_class(y, run.config.loss.threshold).astype(int)
        pictures.draw_mistakes(test.x, true, predicted, splits.classes, folder / "mistakes.png")
