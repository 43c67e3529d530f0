"""What a session draws and says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxbp.config import to_json
from jaxbp.training.report import curves
from jaxbp.training.report.alignment import draw_alignments
from jaxbp.training.report.curves import Row
from jaxbp.training.report.deltas import draw_deltas
from jaxbp.training.report.evidence import DataFacts
from jaxbp.training.report.of_run import write_report

if TYPE_CHECKING:
    from jaxbp.training.loop import Session


def draw(session: Session, rows: list[Row]) -> None:
    """curves.png of the rows so far, deltas.png and alignment.png where there are such, and report.html."""
    if not session.team.first:
        return
    if rows:
        curves.draw_curves(rows, session.folder.path / "curves.png")
        if session.delta_norms:
            draw_deltas(rows[-1]["delta_norms"], session.folder.path / "deltas.png")
        if session.alignments:
            draw_alignments(rows, session.folder.path / "alignment.png")
    run = session.config.run
    facts = DataFacts.of(session.splits, session.batch_size, run.seed, run.shuffle)
    write_report(session.folder.path, to_json(session.config), facts)


def kept_weights(session: Session, last: int, best: Row) -> str:
    """The last line of a run with patience: whether it stopped early, and whose weights it keeps."""
    run = session.config.run
    stopped = f"stopped early after epoch {last} of {run.epochs}, {run.patience} evaluations without a better loss; "
    loss = curves.as_text(best["validation_loss"])
    kept = f"kept the weights of epoch {best['epoch']}, whose validation loss of {loss} is the lowest"
    return (stopped if session.facts["finished"] else "") + kept
