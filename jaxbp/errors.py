"""One kind of error for all input that cannot be used. Scripts print its line and exit with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 2000  # characters of a line


class InputError(ValueError):
    """Bad input. The text is one line that says what was given, where, and what is allowed.

    What cannot be printed is escaped: names and cells in it come from files, and could move a terminal's cursor. The
    middle of a line that is too long is left out.
    """

    def __init__(self, text: str) -> None:
        line = " ".join(text.splitlines())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


def unknown(what: str, name: str, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not in `allowed`. It suggests the nearest one, and lists all where they are few."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    listed = "" if nearest and len(names) > 20 else f" (allowed: {', '.join(names)})"
    return InputError(f"unknown {what} '{name}'{hint}{listed}")
