"""Pictures of surfaces and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxbp.analysis.surfaces import Bowl, PathPlane
from jaxbp.training.report.curves import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxbp.training.retrace import RateSweep

RATES = {"slow": 0.05, "good": 0.5, "oscillating": 0.95, "diverging": 1.02}  # over the limit


def bowl_figure(bowl: Bowl, start: np.ndarray, steps: int) -> Figure:
    """Contours with the path of each of RATES, and its loss over the steps; the limit is in the title."""
    figure = new_figure(12, 4.5)
    panels = figure.subplots(1, len(RATES) + 1)
    reach = 1.4 * np.abs(start - bowl.best).max()
    sides = [np.linspace(best - reach, best + reach, 80) for best in bowl.best]
    loss = bowl.loss(np.stack(np.meshgrid(*sides, indexing="ij"), -1))
    for axes, (name, share) in zip(panels[:-1], RATES.items(), strict=True):
        path = bowl.path(start, share * bowl.limit, steps)
        levels = np.geomspace(loss.min() + 1e-3 * np.ptp(loss), loss.max(), 12)
        axes.contour(*sides, loss.T, levels, cmap="Greys", linewidths=0.7)
        axes.plot(*path.T, ".-", color="C3", linewidth=1, markersize=4)
        axes.plot(*bowl.best, "+", color="C0", markersize=10)
        axes.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]], xlabel="w1", ylabel="w2")
        axes.set_title(f"{name}: rate {share * bowl.limit:.3g}", fontsize=9)
        panels[-1].semilogy(np.maximum(bowl.loss(path) - bowl.lowest, 1e-16), label=name)
    panels[-1].set(xlabel="step", title="loss above the lowest")
    panels[-1].title.set_fontsize(9)
    panels[-1].legend(fontsize=7)
    figure.suptitle(
        f"Gradient descent on a linear neuron: it diverges above rate 2 / largest eigenvalue = {bowl.limit:.3g}"
    )
    return figure


def perceptron_figure(x: np.ndarray, classes: np.ndarray, path: np.ndarray) -> Figure:
    """The line after each correction, the later the darker."""
    figure = new_figure(5, 5)
    axes = figure.subplots()
    points(axes, x, classes)
    low, high = limits(x)
    ends = np.array([low[0], high[0]])
    for i, (w1, w2, b) in enumerate(path[1:], 1):
        alpha = 0.15 + 0.85 * i / (len(path) - 1)
        if w2:
            axes.plot(ends, -(w1 * ends + b) / w2, color="black", alpha=alpha, linewidth=1)
        elif w1:
            axes.axvline(-b / w1, color="black", alpha=alpha, linewidth=1)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), title=f"perceptron, {len(path) - 1} corrections")
    return figure


def line_figure(places: np.ndarray, losses: np.ndarray, label: str, mark: float) -> Figure:
    """Loss along one direction; `mark` is where the weights are."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    axes.plot(places, losses)
    axes.axvline(mark, color="gray", linestyle="--", linewidth=1)
    axes.set(ylabel="loss")
    axes.set_xlabel(label, parse_math=False)
    axes.grid(alpha=0.3)
    return figure


def plane_figure(sides: Sequence[np.ndarray], losses: np.ndarray, plane: PathPlane) -> Figure:
    """Contours of the loss over two directions, with the path, whose end is at 0."""
    figure = new_figure(6.5, 5.5)
    axes = figure.subplots()
    finite = np.where(np.isfinite(losses), losses, np.nan)
    low, high = np.nanmin(finite), np.nanmax(finite)
    levels = np.geomspace(max(low, 1e-6 * high), high, 25) if low > 0 else np.linspace(low, high, 25)
    if high > low:
        figure.colorbar(axes.contourf(*sides, finite.T, np.unique(levels), cmap="viridis"), ax=axes, label="loss")
    axes.plot(0, 0, "+", color="white", markersize=12)
    axes.plot(*plane.places.T, ".-", color="C3", linewidth=1)
    first, second = (f"{share:.0%} of the way's spread" for share in plane.shares)
    axes.set(xlabel=f"first direction, {first}", ylabel=f"second direction, {second}")
    return figure


def boundary_figure(
    x: np.ndarray, classes: np.ndarray, sides: Sequence[np.ndarray], frames: Mapping[str, np.ndarray]
) -> Figure:
    """A panel for each moment: the class [A, B] predicted over the plane, and the points."""
    columns = min(len(frames), 4)
    rows = -(-len(frames) // columns)
    figure = new_figure(3 * columns, 3.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, (title, predicted) in zip(grid, frames.items(), strict=False):
        axes.contourf(*sides, predicted.T.astype(float), np.arange(predicted.max() + 2) - 0.5, cmap="Pastel1")
        points(axes, x, classes)
        axes.set_title(title, fontsize=9)
    return figure


def points(axes: Axes, x: np.ndarray, classes: np.ndarray) -> None:
    """The points of the data, a colour for each class."""
    for c in np.unique(classes):
        axes.plot(*x[classes == c].T, ".", markersize=4, color=f"C{int(c) % 10}")


def limits(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper corner of a frame around points x [N, 2]."""
    margin = 0.2 * (x.max(0) - x.min(0)) + 1e-3
    return x.min(0) - margin, x.max(0) + margin


def rate_figure(sweep: RateSweep) -> Figure:
    """The loss over the rate, with the suggestion."""
    figure = new_figure(6.5, 4)
    axes = figure.subplots()
    axes.semilogx(sweep.rates, np.where(np.isfinite(sweep.losses), sweep.losses, np.nan), color="0.8")
    axes.semilogx(sweep.rates, sweep.smooth)
    axes.axvline(sweep.steepest, color="C2", label=f"steepest, {sweep.steepest:.2g}: the suggestion")
    axes.axvline(sweep.lowest, color="C3", linestyle="--", label=f"lowest, {sweep.lowest:.2g}")
    known = sweep.smooth[np.isfinite(sweep.smooth)]
    axes.set(xlabel="learning rate", ylabel="loss", ylim=(0.9 * known.min(), 1.5 * known.max()))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def comparison_figure(losses: Mapping[str, np.ndarray], title: str) -> Figure:
    """The loss over the steps of the same run with one key changed; a curve ends where it was not finite."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for name, curve in losses.items():
        width = max(1, len(curve) // 50)
        mean = np.convolve(np.where(np.isfinite(curve), curve, np.nan), np.ones(width) / width, "valid")
        axes.semilogy(np.arange(len(mean)) + width, mean, label=name, linewidth=1.2)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=7, ncols=2).get_texts():
        text.set_parse_math(False)
    return figure
