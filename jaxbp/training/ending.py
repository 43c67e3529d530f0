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


def last_line(session: Session, last: Row, kept: Row) -> str:
    """Why a run stopped early, where it did, and with patience whose weights it keeps; "" where neither is to say."""
    run = session.config.run
    parts = []
    if session.facts["finished"] and last["epoch"] < run.epochs:
        loss = f"a training loss of {curves.as_text(last['train_loss'])}, at most run.stop_at_loss={run.stop_at_loss}"
        reason = loss if run.reaches(last["train_loss"]) else f"{run.patience} evaluations without a better loss"
        parts.append(f"stopped early after epoch {last['epoch']} of {run.epochs}, {reason}")
    if run.patience is not None:
        loss = curves.as_text(kept["validation_loss"])
        parts.append(f"kept the weights of epoch {kept['epoch']}, whose validation loss of {loss} is the lowest")
    return "; ".join(parts)
