"""Tables in text files: which character stands between the columns, and whether the first line holds names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Literal

import numpy as np

from jaxbp.data.cells import is_missing, is_text, number, parsed
from jaxbp.data.outside import CELL, Allowance, reading
from jaxbp.data.raw_table import RawTable, check_names
from jaxbp.errors import InputError

DELIMITERS = (",", ";", "\t", "|", " ")
SAMPLE = 50  # rows that tell the delimiter
ROW = 200  # bytes of memory that a row takes beside its cells
LONGEST = 2**26  # characters of a line
WIDEST = 1_000_000  # columns
DELIMITED = 4 * WIDEST  # delimiters in a line, those in quotes too: to cut it takes time
SHORT_CELL = 24  # bytes of memory that a character takes where cells are as short as can be
HasNames = Callable[[Sequence[str], Sequence[Sequence[str]]], bool]  # (first row, columns below it) -> is it names


def read_csv(path: str | Path, delimiter: str, has_names: HasNames, allowance: Allowance | None = None) -> RawTable:
    """The table in a file in UTF-8, with the blanks around cells removed. delimiter: one character, or "auto". A blank
    stands for any run of blanks and tabs.

    Raises InputError for a file that cannot be read, has no rows of data, rows of different lengths, or one name twice.
    """
    allowance = allowance or Allowance()
    if delimiter == "auto":
        delimiter = best_delimiter(path, allowance) or ","
    lines, rows = [], []
    for line, cells in read_rows(path, delimiter, allowance):
        size = ROW + CELL * len(cells) + sum(map(len, cells))
        allowance.take(path, size, f"the cells to line {line} are many")
        if len(cells) > WIDEST:
            raise InputError(f"{path}, line {line}: has {len(cells):,} columns, and a table has at most {WIDEST:,}")
        lines.append(line)
        rows.append([cell.strip() for cell in cells])
    if rows and len(rows[0]) == 1 and (better := best_delimiter(path, allowance)):
        words = ["'tab'" if character == "\t" else repr(character) for character in (delimiter, better)]
        raise InputError(f"{path}: has 1 column with delimiter={words[0]}, and delimiter={words[1]} fits it")
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(rows[0]):
            raise InputError(f"{path}, line {line}: has {len(cells)} columns, and {len(rows[0])} are expected")
    columns = list(zip(*rows, strict=True))
    named = bool(rows) and has_names(rows[0], [column[1:] for column in columns])
    if len(rows) == named:
        raise InputError(f"{path}: holds no rows of data")
    if not named:
        return RawTable(str(path), [str(i) for i in range(len(columns))], list(columns), False, lines)
    check_names(str(path), rows[0])
    return RawTable(str(path), rows[0], [column[1:] for column in columns], True, lines[1:])


def read_rows(path: str | Path, delimiter: str, allowance: Allowance) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and cells of every row that is not empty."""
    with reading(path, allowance) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        text: Iterable[str] = _lines(path, lines, allowance)
        if delimiter == " ":
            text = (re.sub(r"[ \t]+", " ", line.strip()) for line in text)
        reader = csv.reader(_cuttable(path, text, delimiter), delimiter=delimiter, strict=True)
        yield from ((reader.line_num, cells) for cells in reader if cells)


def _lines(path: str | Path, lines: io.TextIOWrapper, allowance: Allowance) -> Iterator[str]:
    """The lines. Raises InputError for one that is too long, and for one whose cells could take too much memory."""
    for i in count(1):
        line = lines.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise InputError(f"{path}: line {i} has more than {LONGEST:,} characters, and no table's line is so long")
        allowance.check(path, SHORT_CELL * len(line), f"line {i} has {len(line):,} characters")
        yield line


def _cuttable(path: str | Path, lines: Iterable[str], delimiter: str) -> Iterator[str]:
    """The lines. Raises InputError for one that would have far more cells than a table has columns."""
    for i, line in enumerate(lines, 1):
        if (delimiters := line.count(delimiter)) > DELIMITED:
            raise InputError(f"{path}, line {i}: has {delimiters:,} delimiters, and a table at most {WIDEST:,} columns")
        yield line


def best_delimiter(path: str | Path, allowance: Allowance) -> str | None:
    """The delimiter that cuts the first rows into equally many columns, the most of all; None if none cuts them."""

    def columns(delimiter: str) -> int:
        try:
            rows = [cells for _, cells in islice(read_rows(path, delimiter, allowance), SAMPLE)]
        except InputError:
            return 0
        if delimiter == " " and any(all(np.isnan(number(cell)) for cell in cells) for cells in rows[1:]):
            return 0  # sentences are no rows
        counts = {len(cells) for cells in rows}
        return counts.pop() if len(counts) == 1 else 0

    counts = {delimiter: columns(delimiter) for delimiter in DELIMITERS}
    best = max(counts, key=lambda delimiter: counts[delimiter])  # the first of equals
    return best if counts[best] > 1 else None


def first_line_has_names(
    path: str | Path, header: bool | Literal["auto"], first: Sequence[str], columns: Sequence[Sequence[str]]
) -> bool:
    """Whether the first line of a file holds the names of the columns below it.

    A text above a column that holds few texts is a name. A number is data, and so is a text that its column has again.
    Raises InputError where `header` is "auto" and this does not decide, and where it is True and all cells are data.
    """
    if header is False:
        return False
    if not columns or not columns[0]:
        return header is True or all(map(is_text, first))
    present = [name for name in first if not is_missing(name)]
    numbered = len(present) > 1 and present == [str(i) for i in range(len(present))]  # as pandas names columns
    pairs = list(zip(first, columns, strict=True))
    if header is True:
        if all(is_missing(name) or not is_text(name) or name in column for name, column in pairs) and not numbered:
            raise InputError(f"{path}: the first line holds data, no names; header=False reads it as data")
        return True
    is_data = any(not is_missing(name) and (not is_text(name) or name in column) for name, column in pairs)
    is_name = any(is_text(name) and _holds_few_texts(column) for name, column in pairs)
    if is_name == is_data or (numbered and not is_name):
        raise InputError(f"{path}: are names in the first line? header=True takes it as names, header=False as data")
    return is_name


def _holds_few_texts(cells: Sequence[str]) -> bool:
    """Whether more than half of the values are no texts."""
    values, missing = parsed(cells)
    texts = sum(is_text(cells[row]) for row in np.flatnonzero(np.isnan(values) & ~missing).tolist())
    return texts < (~missing).sum() / 2
