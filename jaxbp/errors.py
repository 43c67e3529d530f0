"""One kind of error for all input that cannot be used. Scripts print its line and exit with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The text is one line that says what was given, where, and what is allowed."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.splitlines()))


def unknown(what: str, name: str, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not in `allowed`. It suggests the nearest one, and lists all where they are few."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    listed = "" if nearest and len(names) > 20 else f" (allowed: {', '.join(names)})"
    return InputError(f"unknown {what} '{name}'{hint}{listed}")
