"""One kind of error for everything that a user gave and that cannot be used. Scripts print its line and exit with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: its text is one line that says what was given, where, and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.splitlines()))


def unknown(what: str, given: str, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not in `allowed`: it suggests the nearest one, and lists all where they are few."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    names = "" if close and len(allowed) > 20 else f" (allowed: {', '.join(allowed)})"
    return InputError(f"unknown {what} '{given}'{hint}{names}")
