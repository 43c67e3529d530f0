"""Pictures of surfaces and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxbp.analysis.surfaces import Bowl, PathPlane
from jaxbp.training.report.curves import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxbp.training.retrace import RateSweep


class Slice(NamedTuple):
    """A loss over two directions."""

    sides: Sequence[np.ndarray]  # [A] and [B]: how far along each
    losses: np.ndarray  # [A, B]


RATES = {"slow": 0.05, "good": 0.5, "oscillating": 0.95, "diverging": 1.02}  # over the limit


def bowl_figure(bowl: Bowl, start: np.ndarray, steps: int) -> Figure:
    """The path at each of RATES on the bowl's contours, its loss over the steps, and the last loss over all rates."""
    figure = new_figure(10, 6.6)
    panels = figure.subplots(2, 3).ravel()
    reach = 1.4 * np.abs(start - bowl.best).max()
    sides = [np.linspace(best - reach, best + reach, 80) for best in bowl.best]
    loss = bowl.loss(np.stack(np.meshgrid(*sides, indexing="ij"), -1))
    over_steps, over_rates = panels[2], panels[5]
    for axes, (name, share) in zip(panels[[0, 1, 3, 4]], RATES.items(), strict=True):
        path = bowl.path(start, share * bowl.limit, steps)
        axes.contourf(*sides, loss.T, np.geomspace(loss.min() + 1e-3 * np.ptp(loss), loss.max(), 12), cmap="Blues")
        axes.plot(*path.T, ".-", color="C3", linewidth=1, markersize=5)
        axes.plot(*bowl.best, "+", color="black", markersize=10)
        axes.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]], xlabel="w1", ylabel="w2")
        axes.set_title(f"{name}: rate {share * bowl.limit:.2g}")
        over_steps.semilogy(np.maximum(bowl.loss(path) - bowl.lowest, 1e-16), label=name)
    over_steps.set(xlabel="step", title="loss above the lowest")
    over_steps.legend(fontsize=8)
    rates = np.linspace(0.01, 1.1, 110) * bowl.limit
    last = [bowl.loss(bowl.path(start, rate, steps)[-1]) - bowl.lowest for rate in rates]
    over_rates.semilogy(rates, np.maximum(last, 1e-16))
    over_rates.axvline(bowl.limit, color="C3", linestyle="--", label=f"2 / largest eigenvalue = {bowl.limit:.3g}")
    over_rates.axhline(bowl.loss(start) - bowl.lowest, color="gray", linewidth=0.8, label="at the start")
    over_rates.set(xlabel="rate", title=f"the same after {steps} steps")
    over_rates.legend(fontsize=8)
    figure.suptitle("Gradient descent on the loss of a linear neuron")
    return figure


def line_figure(places: np.ndarray, losses: np.ndarray, label: str, mark: float) -> Figure:
    """Loss along one direction; `mark` is where the weights are."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    axes.plot(places, losses)
    axes.axvline(mark, color="gray", linestyle="--", linewidth=1, label="the weights of the run")
    axes.set(ylabel="loss")
    axes.set_xlabel(label, parse_math=False)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def plane_figure(way: Slice, plane: PathPlane, around: Slice) -> Figure:
    """The loss over the plane of the path, with the path, and over two filter-normalised directions around its end."""
    figure = new_figure(11, 4.8)
    first, second = figure.subplots(1, 2)
    contours(figure, first, way)
    first.plot(*plane.places.T, ".-", color="C3", linewidth=1)
    first.plot(*plane.places[0], "s", color="C3", markersize=7, label="start")
    first.plot(0, 0, "*", color="white", markeredgecolor="C3", markersize=14, label="end")
    first.legend(fontsize=8)
    shares = [f"{share:.0%} of the way's spread" for share in plane.shares]
    first.set(title="the way", xlabel=f"first direction, {shares[0]}", ylabel=f"second direction, {shares[1]}")
    contours(figure, second, around)
    second.plot(0, 0, "*", color="white", markeredgecolor="C3", markersize=14)
    second.set(title="around the end", xlabel="random direction, in lengths of the filters", ylabel="another one")
    second.locator_params(nbins=5)
    return figure


def contours(figure: Figure, axes: Axes, seen: Slice) -> None:
    """Filled contours of a loss over two directions, on a logarithmic scale where it is above 0."""
    finite = np.where(np.isfinite(seen.losses), seen.losses, np.nan)
    low, high = np.nanmin(finite), np.nanmax(finite)
    if high > low:
        is_positive = low > 0
        levels = np.geomspace(max(low, 1e-6 * high), high, 25) if is_positive else np.linspace(low, high, 25)
        picture = axes.contourf(
            *seen.sides, finite.T, np.unique(levels), cmap="viridis", norm="log" if is_positive else None
        )
        figure.colorbar(picture, ax=axes, label="loss", format="%.2g", ticks=levels[::4])


class Moment(NamedTuple):
    """What a net makes of the plane at one moment."""

    scores: np.ndarray  # [A, B, classes]; a place is seen as the class of the highest score
    right: float  # share of the points that are seen as their class


def boundary_figure(
    x: np.ndarray, classes: np.ndarray, sides: Sequence[np.ndarray], moments: Mapping[str, Moment], title: str = ""
) -> Figure:
    """A panel for each moment, with the points; then the lines of all moments in one, and the share that is right."""
    from matplotlib.colors import ListedColormap

    columns = min(len(moments), 4)
    rows = -(-len(moments) // columns)
    figure = new_figure(max(2.5 * columns, 8), 2.6 * rows + 4)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.6 * rows, 4]).ravel()
    grid = above.subplots(rows, columns, squeeze=False).ravel()
    together, curve = below.subplots(1, 2)
    colours = ListedColormap([f"C{c % 10}" for c in range(int(classes.max()) + 1)])
    for axes in (*grid, together):
        axes.axis("off")
    points(together, x, classes)
    marks: list[np.ndarray] = []
    for i, (axes, (name, moment)) in enumerate(zip(grid, moments.items(), strict=False)):
        seen = moment.scores.argmax(-1).T.astype(float)
        axes.contourf(*sides, seen, np.arange(colours.N + 1) - 0.5, cmap=colours, alpha=0.3)
        points(axes, x, classes)
        axes.set_title(name, fontsize=9)
        draw_lines(axes, sides, moment.scores, "black", 0.8)
        age = (i + 1) / len(moments)
        marks += numbered(
            together, draw_lines(together, sides, moment.scores, str(0.85 - 0.85 * age), 0.6 + 1.4 * age), i + 1, marks
        )
    together.set_title("the lines of all panels, from pale to dark", fontsize=9, pad=14)
    curve.plot(range(1, len(moments) + 1), [moment.right for moment in moments.values()], ".-", color="black")
    curve.locator_params(axis="x", integer=True)
    curve.set(xlabel="panel", ylabel="share of the points that is right", ylim=(0, 1.05))
    curve.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def draw_lines(
    axes: Axes, sides: Sequence[np.ndarray], scores: np.ndarray, colour: str, width: float
) -> list[np.ndarray]:
    """The lines between the classes, and for each its first end in the frame [2]."""
    ends = []
    count = scores.shape[-1]
    for c in range(1 if count == 2 else count):
        margin = (scores[..., c] - np.delete(scores, c, -1).max(-1)).T
        if margin.min() < 0 < margin.max():
            lines = axes.contour(*sides, margin, [0], colors=colour, linewidths=width)
            ends.append(np.array(lines.get_paths()[0].vertices)[0])
    return ends


def numbered(axes: Axes, ends: list[np.ndarray], number: int, marks: list[np.ndarray]) -> list[np.ndarray]:
    """Writes the number at each end that is not too near to the marks; returns those ends."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    near = 0.05 * np.array([right - left, high - low])
    free = [end for end in ends if all((np.abs(end - mark) > near).any() for mark in marks)]
    for end in free:
        axes.annotate(
            str(number), (end[0], end[1]), (3, 2), textcoords="offset points", fontsize=8, annotation_clip=False
        )
    return free


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
    axes.axvline(sweep.steepest, color="C2", label=f"falls fastest, {sweep.steepest:.2g}: the suggestion")
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
        width = max(1, len(curve) // 20)
        mean = np.convolve(np.where(np.isfinite(curve), curve, np.nan), np.ones(width) / width, "valid")
        axes.semilogy(np.arange(len(mean)) + width, mean, label=name, linewidth=1.2)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize=7, ncols=2).get_texts():
        text.set_parse_math(False)
    return figure
