"""What one cell of a table means: a number, a missing value, a text, or something that nobody can have meant."""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
MISSING = {"", "?", "na", "n/a", "#n/a", "#na", "<na>", "nan", "+nan", "-nan", "null"}
MONTH = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
DATE = re.compile(
    r"\d{4}([-/.])\d{1,2}\1\d{1,2}([T ].*)?"  # 2026-03-01
    r"|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d{2})([T ].*)?"  # 1.3.2026
    r"|\d{1,2}:\d{2}(:\d{2}(\.\d*)?)?"  # 12:30
    rf"|\d{{1,2}}[-. ]+{MONTH}[-., ]+\d{{2,4}}|{MONTH} \d{{1,2}},? \d{{4}}",
    re.IGNORECASE,
)
DECORATED = re.compile(r"[-+]?[$€£¥]?\s?\d[\d.,' ]*\s?[%$€£¥]?")  # 1,000 and 1,5 and $5 and 5%


def is_missing(cell: Any) -> bool:
    """Whether the cell is None, nan, or one of the texts that stand for a missing value."""
    return cell is None or str(cell).strip().lower() in MISSING


def number(cell: Any) -> float:
    """The number that a cell holds; nan where it holds none, or one that is not finite in float32.

    Python's float also takes 1_000 and the digits of other scripts. Nobody means these: here they are no numbers.
    """
    if isinstance(cell, str) and (not cell.isascii() or "_" in cell):
        return np.nan
    value = loose_number(cell)
    return value if abs(value) <= LARGEST else np.nan


def loose_number(cell: Any) -> float:
    """What Python's float makes of a text or number; nan where it makes nothing of it."""
    if not isinstance(cell, str | numbers.Real | Decimal | np.bool_):
        return np.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return np.nan


def is_text(cell: str) -> bool:
    """Whether the cell holds neither a number, nor what is nearly one, nor a date, and is not missing."""
    return np.isnan(number(cell)) and not is_missing(cell) and fault(cell) is None


def parsed(cells: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the numbers float64 [N], nan where a cell is none; whether a value is missing, bool [N])."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "fiub":
        values = cells.astype(np.float64)
        missing = np.isnan(values)
        values[~missing & (np.abs(values) > LARGEST)] = np.nan
        return values, missing
    try:  # fast, for a column that holds nothing but numbers
        values = np.fromiter(map(float, cells), np.float64, len(cells))
        text = "".join(cells)
        if (np.abs(values) <= LARGEST).all() and text.isascii() and "_" not in text:
            return values, np.zeros(len(cells), bool)
    except (TypeError, ValueError):
        pass
    values = np.fromiter(map(number, cells), np.float64, len(cells))
    missing = np.fromiter(map(is_missing, cells), bool, len(cells))
    return values, missing


def text_of(cell: Any) -> str:
    """The cell as text, without blanks around it; a whole number without a point: 3 and 3.0 are '3'."""
    if isinstance(cell, float | np.floating) and abs(float(cell)) < 2**53 and float(cell).is_integer():
        return str(int(cell))
    return str(cell).strip()


def fault(cell: Any) -> str | None:
    """What is wrong with a cell that is nearly a number, or a date; None for other texts."""
    text = text_of(cell)
    plain = text.replace("_", "").replace("\N{MINUS SIGN}", "-")
    value = loose_number(plain)
    if np.isfinite(value) and (plain != text or not text.isascii()):
        return f"'{text}' must be written {value:.15g}"
    if not np.isnan(value):
        return f"'{text}' is not a finite number in float32"
    if DATE.fullmatch(text):
        number = "a number in its place, such as the days since a first day"
        return f"'{text}' is a date or time: give {number}, or leave the column out by exclude"
    if DECORATED.fullmatch(text):
        return f"'{text}' is not a finite number: it may have digits, one point, and a sign"
    return None
