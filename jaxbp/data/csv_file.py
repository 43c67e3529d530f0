"""Tables in text files, one example a line: numbers are features, and one column is to be predicted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxbp.data.pipeline import Dataset, unreadable
from jaxbp.data.prepare import Tabular
from jaxbp.errors import InputError, unknown

LARGEST = float(np.finfo(np.float32).max)
MISSING = {"", "?", "na", "n/a", "nan", "null"}


@dataclass(frozen=True)
class Csv(Tabular):
    """x [N, features]. For regression y is [N, 1]. For classification y [N] numbers the labels in sorted order: that of
    numbers if all are numbers, else that of text.

    Args:
        path: path of the file, UTF-8
        target: column to predict, by name or by number from 0; negative numbers count from the end
        features: columns to learn from, by name or number; empty: all but the target
        header: whether the first line holds the columns' names
        delimiter: the one character between columns
        task: whether the target is a label or a number
    """

    path: str
    target: int | str = -1
    features: tuple[int | str, ...] = ()
    header: bool = True
    delimiter: str = ","
    task: Literal["classification", "regression"] = "classification"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter) != 1:
            raise InputError(f"delimiter must be one character, got {self.delimiter!r}")

    def table(self) -> tuple[Dataset, tuple[str, ...] | None]:
        names, rows = self._read()
        target = self._column(self.target, names)
        chosen = [self._column(feature, names) for feature in self.features]
        chosen = chosen or [i for i in range(len(names)) if i != target]
        if target in chosen or not chosen:
            raise InputError(f"{self.path}: features must name columns other than the target, got {self.features}")
        x = np.array([[self._number(line, names[i], cells[i]) for i in chosen] for line, cells in rows])
        if self.task == "regression":
            y = np.array([[self._number(line, names[target], cells[target])] for line, cells in rows])
            return Dataset(x, y), None
        y, classes = number_labels([self._label(line, names[target], cells[target]) for line, cells in rows])
        return Dataset(x, y), classes

    def _read(self) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """The columns' names (their numbers if there is no header), and every row's line number and cells."""
        try:
            with Path(self.path).expanduser().open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, delimiter=self.delimiter, strict=True)
                rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise unreadable(self.path, error) from error
        names = self._names(rows.pop(0)[1] if rows and self.header else None, rows)
        if not rows:
            raise InputError(f"{self.path}: holds no rows of data")
        for line, cells in rows:
            if len(cells) != len(names):
                raise InputError(f"{self.path}, line {line}: has {len(cells)} columns, and {len(names)} are expected")
        return names, rows

    def _names(self, header: list[str] | None, rows: list[tuple[int, list[str]]]) -> list[str]:
        if header is None:
            return [str(i) for i in range(len(rows[0][1]))] if rows else []
        if all(_is_number(cell) for cell in header):
            raise InputError(f"{self.path}: the first line holds only numbers, no names; header=False reads it as data")
        for name in header:
            if header.count(name) > 1:
                raise InputError(f"{self.path}: two columns have the name '{name}', and names must differ")
        return header

    def _column(self, column: int | str, names: list[str]) -> int:
        """The number of a column, from 0."""
        if isinstance(column, int):
            if not -len(names) <= column < len(names):
                raise InputError(f"{self.path}: has no column {column}, its columns are 0..{len(names) - 1}")
            return column % len(names)
        if column not in names:
            raise unknown(f"column of {self.path}", column, names)
        return names.index(column)

    def _number(self, line: int, name: str, cell: str) -> float:
        if not _is_number(cell):
            raise InputError(f"{self.path}, line {line}, column '{name}': '{cell}' is not a finite number")
        return float(cell)

    def _label(self, line: int, name: str, cell: str) -> str:
        if cell.lower() in MISSING:
            raise InputError(f"{self.path}, line {line}, column '{name}': the label is missing, got '{cell}'")
        return cell


def _is_number(cell: str) -> bool:
    """Whether the text is a number, finite in float32."""
    try:
        return abs(float(cell)) <= LARGEST
    except ValueError:
        return False


def number_labels(labels: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Every label's place [N] int32 among the sorted labels, and these: 2 comes before 10 if all labels are numbers."""
    numeric = all(map(_is_number, labels))
    present, y = np.unique([float(label) for label in labels] if numeric else labels, return_inverse=True)
    return y.astype(np.int32), tuple(f"{value:.15g}" if numeric else str(value) for value in present)
