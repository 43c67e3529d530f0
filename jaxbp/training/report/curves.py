"""What a run shows a person: a line for each evaluation, and curves at its end."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxbp.files import overwrite
from jaxbp.training.report.records import is_row, records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"train": "C0", "validation": "C2", "test": "C1"}
Row = dict[
    str, Any
]  # of metrics.jsonl: "epoch", "step", losses and accuracies; "delta_norms" and "alignment" {path: numbers}


def as_text(value: float) -> str:
    """A figure for the terminal: four decimals, or four significant digits where those would show next to nothing."""
    return f"{value:.4g}" if 0 < abs(value) < 1e-4 else f"{value:.4f}"


def line(row: Row, epochs: int, steps_per_second: float, pace: Mapping[str, float] | None = None) -> str:
    """One row of metrics.jsonl for the terminal. pace: further figures of the speed, of a run on text."""
    figures = "  ".join(
        f"{name.replace('_', ' ')} {as_text(value)}"
        for name, value in row.items()
        if name not in ("epoch", "step", "delta_norms", "alignment")
    )
    text = (
        "  {tokens_per_second:,.0f} tokens/s  {utilisation:.0%} of the speed of a matrix product".format(**pace)
        if pace
        else ""
    )
    return f"epoch {row['epoch']}/{epochs}  {figures}  {steps_per_second:,.0f} steps/s{text}"


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl, up to the first that is damaged. Raises OSError where it cannot be read."""
    return records(path, is_row)


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Losses and accuracies over the epochs as a PNG."""
    epochs = [row["epoch"] for row in rows]
    marker = "." if len(rows) < 50 else ""
    kinds = [kind for kind in ("loss", "accuracy") if any(name.endswith(kind) for name in rows[0])]
    figure = new_figure(5 * len(kinds), 3.5)
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        for part, colour in COLOURS.items():
            if (name := f"{part}_{kind}") in rows[0]:
                axes.plot(epochs, [row[name] for row in rows], colour, label=part, marker=marker)
        axes.set(xlabel="epoch", title=kind, yscale=scale(kind, axes))
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def scale(kind: str, axes: Axes) -> str:
    """ "log" for the losses of the curves drawn; "linear" where they are 0 or negative, and for accuracies."""
    least, largest = axes.dataLim.intervaly
    return "log" if kind == "loss" and least >= 0 and largest > 0 else "linear"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of matplotlib, in inches. Its import takes long, so that only who draws waits for it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure of matplotlib as a PNG into a run folder, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    overwrite(path, buffer.getvalue())
