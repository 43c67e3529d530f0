"""The diagnosis never decides the outcome: where it raises, the verdict stands, and a line of the report says so."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxbp.check.report import Finding

T = TypeVar("T")
RAISES = False  # an exception of the diagnosis is raised: our own tests set it, so that they see what is broken


def guarded(diagnose: Callable[[], T], otherwise: T, findings: list[Finding]) -> T:
    """diagnose(); or `otherwise`, and one more finding, where it raises."""
    try:
        return diagnose()
    except Exception as error:
        if RAISES:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = (str(error).strip().splitlines() or ["(no message)"])[0]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        finding = Finding("diagnosis", None, f"it raised {type(error).__name__}: {message} ({where}); please report it")
        findings += [] if finding in findings else [finding]
        return otherwise
