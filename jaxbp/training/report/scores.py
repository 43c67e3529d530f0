"""Scores of a model's outputs on one part of the data: as numbers, as text, as pictures.

scikit-learn and SciPy take long to import, so the functions that need them import them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxbp.losses import Loss
from jaxbp.training.evaluate import predicted_class, probabilities, true_class
from jaxbp.training.report.curves import as_text, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10  # of confidence, equally wide
MANY = 20  # classes; with so many a confusion matrix shows no counts


@dataclass(frozen=True)
class Calibration:
    """How well predicted probabilities agree with how often they are right (Guo et al. 2017, arXiv 1706.04599)."""

    error: float  # expected calibration error: mean over the examples of |confidence - accuracy| of their bins
    brier: float  # mean over the examples of sum_c (p_c - [c is true])^2; half of it for two classes
    bins: tuple[tuple[float, float, int], ...]  # (mean probability of the predicted class, accuracy, examples)


@dataclass(frozen=True)
class Classification:
    """Right and wrong predictions, class by class; a score of 0 / 0 counts as 0."""

    accuracy: float
    interval: tuple[float, float]  # 95 % (Wilson) around the accuracy
    classes: tuple[str, ...]  # names; in their order are:
    confusion: tuple[tuple[int, ...], ...]  # examples; rows true, columns predicted
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]  # examples that are of the class
    calibration: Calibration | None  # None where the loss does not make the outputs probabilities

    def __str__(self) -> str:
        low, high = self.interval
        text = f"accuracy {as_text(self.accuracy)} (95 %: {as_text(low)} to {as_text(high)})"
        if self.calibration is None:
            return text
        error = as_text(self.calibration.error)
        return f"{text}  calibration error {error}  Brier score {as_text(self.calibration.brier)}"

    def table(self) -> str:
        """A row for each class: its row of the confusion matrix (unless the classes are many), then its scores."""
        shown = len(self.classes) if len(self.classes) < MANY else 0
        names = printable(self.classes)
        rows = [["true \\ predicted", *names[:shown], "precision", "recall", "F1", "examples"]]
        for name, counts, *scores, support in zip(
            names, self.confusion, self.precision, self.recall, self.f1, self.support, strict=True
        ):
            rows.append([name, *map(str, counts[:shown]), *map(as_text, scores), str(support)])
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows)


@dataclass(frozen=True)
class Regression:
    """Distance to the targets, in the targets' own units."""

    rmse: float
    r2: float  # 1 - mean squared error / variance of all targets together, to which one that is constant adds nothing

    def __str__(self) -> str:
        return f"RMSE {as_text(self.rmse)}  R^2 {as_text(self.r2)}"


def printable(names: Sequence[str]) -> list[str]:
    """The names as they can be read: blanks and line ends as in a program's text."""
    return [name if name.isprintable() and name.strip() else repr(name) for name in names]


def measure(
    y: np.ndarray, target: np.ndarray, loss: Loss, classes: tuple[str, ...] | None
) -> Classification | Regression:
    """The scores of outputs y [N, O] for targets [N] or [N, O]; classes are the names, None for regression."""
    from scipy.stats import binomtest
    from sklearn import metrics

    if classes is None:
        return regression(y.reshape(len(y), -1).astype(np.float64), target.reshape(len(y), -1).astype(np.float64))
    true = true_class(y, target).astype(int)
    predicted = predicted_class(y, loss.threshold).astype(int)
    labels = range(len(classes))
    confusion = metrics.confusion_matrix(true, predicted, labels=labels)
    scores = metrics.precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)
    precision, recall, f1, support = (tuple(score.tolist()) for score in scores)
    hits = int((true == predicted).sum())
    interval = binomtest(hits, len(true)).proportion_ci(0.95, "wilson")
    p = probabilities(y, loss)
    return Classification(
        accuracy=hits / len(true),
        interval=(float(interval.low), float(interval.high)),
        classes=classes,
        confusion=tuple(map(tuple, confusion.tolist())),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        calibration=None if p is None else calibrate(p, true),
    )


def regression(y: np.ndarray, target: np.ndarray) -> Regression:
    """The scores of outputs [N, O] for targets [N, O]. Where all targets are constant, R^2 is 1 or 0: right or not."""
    errors = np.mean((y - target) ** 2, 0)
    variance = np.mean(target.var(0))
    r2 = 1 - errors.mean() / variance if variance > 0 else float(not errors.any())
    return Regression(float(np.mean(np.sqrt(errors))), float(r2))


def calibrate(p: np.ndarray, true: np.ndarray) -> Calibration:
    """How well probabilities p [N, classes] agree with the true classes [N]."""
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == true
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    members = [number == i for i in np.unique(number)]
    bins = tuple((float(confidence[rows].mean()), float(right[rows].mean()), int(rows.sum())) for rows in members)
    error = sum(abs(mean - accuracy) * count for mean, accuracy, count in bins) / len(true)
    brier = ((p - np.eye(p.shape[1])[true]) ** 2).sum(axis=1).mean()
    return Calibration(error, float(brier) / (2 if p.shape[1] == 2 else 1), bins)


def draw(scores: Classification, folder: Path) -> None:
    """confusion.png, and calibration.png where there are probabilities."""
    save_figure(confusion_figure(scores), folder / "confusion.png")
    if scores.calibration:
        save_figure(calibration_figure(scores.calibration), folder / "calibration.png")


def confusion_figure(scores: Classification) -> Figure:
    """The confusion matrix, with its counts unless the classes are many."""
    from sklearn.metrics import ConfusionMatrixDisplay

    classes = len(scores.classes)
    side = 3 + 0.4 * min(classes, MANY)
    figure = new_figure(side, side)
    display = ConfusionMatrixDisplay(np.array(scores.confusion), display_labels=printable(scores.classes))
    display.plot(ax=figure.subplots(), include_values=classes < MANY, cmap="Blues", colorbar=False, xticks_rotation=90)
    for axis in (display.ax_.xaxis, display.ax_.yaxis):
        axis.set_ticks(range(classes), printable(scores.classes), parse_math=False)  # a $ in a name is a $
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """A reliability diagram with the number of examples at every point."""
    figure = new_figure(4.5, 4.5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color="gray")
    axes.plot(*np.array(calibration.bins)[:, :2].T, "o-")
    for mean, accuracy, count in calibration.bins:
        axes.annotate(str(count), (mean, accuracy), (-5, 5), textcoords="offset points", ha="right", fontsize=8)
    axes.set(xlabel="confidence", ylabel="accuracy", title=f"calibration error {calibration.error:.4f}")
    return figure
