"""What a run shows a person: lines while it goes, curves when it is done."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxbp.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"train": "C0", "validation": "C2", "test": "C1"}


def line(row: Mapping[str, float], epochs: int, steps_per_second: float) -> str:
    """One row of metrics.jsonl for the terminal."""
    figures = "  ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in row.items()
        if name not in ("epoch", "step", "delta_norms")
    )
    return f"epoch {row['epoch']}/{epochs}  {figures}  {steps_per_second:,.0f} steps/s"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl."""
    return [json.loads(text) for text in path.read_text().splitlines()]


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Losses and accuracies over the epochs as a PNG."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("loss", "accuracy") if any(name.endswith(kind) for name in rows[0])]
    figure = Figure(figsize=(5 * len(kinds), 3.5), layout="constrained")
    for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        for name in (name for name in rows[0] if name.endswith(kind)):
            part = name.removesuffix(f"_{kind}")
            axes.plot(
                [row["epoch"] for row in rows],
                [row[name] for row in rows],
                COLOURS[part],
                label=part,
                marker="." if len(rows) < 50 else "",
            )
        axes.set(xlabel="epoch", title=kind, yscale="log" if kind == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """A figure of matplotlib as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())
