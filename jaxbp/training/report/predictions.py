"""What a finished run makes of its data, for the report: scores, confusion, calibration, worst examples."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxbp.data import Dataset, Splits
from jaxbp.training.evaluate import make_prediction, predicted_class, true_class
from jaxbp.training.report.curves import as_text, new_figure
from jaxbp.training.report.page import Part, drawn, shortened
from jaxbp.training.report.pictures import image_shape, shown
from jaxbp.training.report.scores import (
    Classification,
    Regression,
    calibration_figure,
    confusion_figure,
    measure,
    printable,
)
from jaxbp.training.run import Trained

WORST = 20  # examples
MOST = 10_000  # rows of the training part


class Predicted(NamedTuple):
    """One part of the data with the model's outputs."""

    data: Dataset
    y: np.ndarray  # [N, O]
    loss: np.ndarray  # [N], of every example
    scores: Classification | Regression


def predicted(run: Trained, part: Dataset, classes: tuple[str, ...] | None) -> Predicted:
    """The outputs for a part without a time axis."""
    outputs = make_prediction(run.model)(run.params, run.state, part.x)
    loss, _ = run.config.loss.items(jnp.asarray(outputs), jnp.asarray(part.y))
    y = outputs = run.config.loss.prediction(outputs)
    targets = part.y
    if classes is None and run.preparation:
        outputs, targets = run.preparation.targets(y), run.preparation.targets(part.y)
    return Predicted(part, y, np.asarray(loss), measure(outputs, targets, run.config.loss, classes))


def parts_of(run: Trained, splits: Splits) -> dict[str, Predicted]:
    """The test part, and as many rows of the training part as MOST; {} where rows have a time axis."""
    if splits.train.mask is not None or splits.train.y.ndim > 2:
        return {}
    count = min(len(splits.train), MOST)
    train = splits.train.take(np.arange(count) * len(splits.train) // count)
    return {name: predicted(run, part, splits.classes) for name, part in (("train", train), ("test", splits.test))}


def sure_errors(run: Trained, part: Predicted) -> tuple[int, float, float]:
    """(examples, share of wrong classes, the same among the half with the widest margin)."""
    threshold = run.config.loss.threshold
    wrong = predicted_class(part.y, threshold) != true_class(part.y, part.data.y)
    ordered = np.sort(part.y, -1)
    margin = np.abs(part.y[:, 0] - threshold) if part.y.shape[1] == 1 else ordered[:, -1] - ordered[:, -2]
    sure = np.argsort(-margin, kind="stable")[: max(1, len(margin) // 2)]
    return len(wrong), float(wrong.mean()), float(wrong[sure].mean())


def of_test(run: Trained, test: Predicted) -> list[Part]:
    """Scores, confusion, calibration and the worst examples of the test part."""
    parts = [Part("Test part", texts=[str(test.scores)])]
    if isinstance(test.scores, Classification):
        parts.append(Part("Confusion", drawn(confusion_figure(test.scores)), texts=["Rows true, columns predicted."]))
        if test.scores.calibration:
            parts.append(Part("Calibration", drawn(calibration_figure(test.scores.calibration))))
    return [*parts, worst_examples(run, test)]


def worst_examples(run: Trained, test: Predicted) -> Part:
    """The test examples of the largest loss, as pictures where they are images."""
    rows = np.argsort(-test.loss, kind="stable")[:WORST]
    if isinstance(test.scores, Classification):
        names = printable(test.scores.classes)
        true = [names[int(c)] for c in true_class(test.y, test.data.y)[rows]]
        predicted = [names[int(c)] for c in predicted_class(test.y, run.config.loss.threshold)[rows]]
    else:
        true, predicted = ([shortened(np.array2string(a, precision=4)) for a in b[rows]] for b in (test.data.y, test.y))
    losses = [as_text(value) for value in test.loss[rows]]
    shape = image_shape(test.data.x)
    picture = ""
    if shape is not None:
        images = test.data.x[rows].reshape(-1, *shape)
        figure = new_figure(10, 1.5 * -(-len(rows) // 10))
        grid = figure.subplots(-(-len(rows) // 10), 10, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for i in range(len(rows)):
            grid[i].imshow(shown(images[i]), cmap="gray")
            title = f"{shortened(true[i])[:12]} > {shortened(predicted[i])[:12]}\nloss {losses[i]}"
            grid[i].set_title(title, fontsize=6, parse_math=False)
        picture = drawn(figure)
    table = [
        ["row of the test part", "truth", "prediction", "loss"],
        *zip(map(str, rows), true, predicted, losses, strict=True),
    ]
    return Part("Worst examples", picture, texts=["The test examples of the largest loss."], table=table)
