"""The picture of a run whose credit rule is inexact: how its direction comes to agree with the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxbp.credit.alignment import Alignment
from jaxbp.training.report.curves import Row, new_figure, save_figure


def draw_alignments(rows: Sequence[Row], path: Path) -> None:
    """Cosine and length of the direction over the epochs as a PNG; rows: of metrics.jsonl."""
    figure = new_figure(10, 3.5)
    cosines, lengths = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for name in rows[-1]["alignment"]:
        figures = [Alignment(*row["alignment"][name]) for row in rows]
        cosines.plot(epochs, [f.cosine for f in figures], label=name, marker=".")
        lengths.plot(epochs, [f.ratio for f in figures], label=name, marker=".")
    cosines.set(xlabel="epoch", title="cosine to the gradient", ylim=(-1.05, 1.05))
    lengths.set(xlabel="epoch", title="length over that of the gradient")
    for axes in (cosines, lengths):
        axes.grid(alpha=0.3)
    for text in cosines.legend(fontsize="small").get_texts():
        text.set_parse_math(False)
    save_figure(figure, path)
