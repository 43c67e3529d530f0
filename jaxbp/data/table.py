"""What all tables share, whatever their format: the column to predict, the features, missing values and texts."""

from __future__ import annotations

import sys
from abc import abstractmethod
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import numpy as np

from jaxbp.data.cells import fault, is_missing, loose_number, number, parsed, text_of
from jaxbp.data.columns import Columns, as_texts, matrix, read_number_column
from jaxbp.data.pipeline import Dataset
from jaxbp.data.prepare import Examples, Tabular
from jaxbp.data.raw_table import RawTable
from jaxbp.errors import InputError

Missing = Literal["refuse", "drop", "mean", "median", "most_frequent"]
Texts = Literal["refuse", "one_hot", "ordinal"]
MANY = 10  # rows from which on a column counts as one of ids: texts that all differ, or 1, 2, 3, ...


@dataclass(frozen=True, kw_only=True)
class Table(Tabular):
    """x [N, features]. For regression y is [N, 1]. For classification y [N] numbers the labels in sorted order: that of
    numbers if all are numbers, else that of text.

    Args:
        target: column to predict, by name or by number from 0; negative numbers count from the end
        features: columns to learn from, by name or number; empty: all but the target and those of `exclude`
        exclude: columns to leave out, by name or number
        task: whether the target is a label or a number
        missing: what becomes of a missing value: refused, its row left out, or filled with its column's mean, median or
            most frequent value in the training part; texts are filled with the most frequent one
        text: what becomes of columns of text: refused, one column of 0 and 1 for each text of the training part, or the
            text's place in their alphabetical order
        categories: columns to take as text where they hold numbers too, by name or number
    """

    target: int | str = -1
    features: tuple[int | str, ...] = ()
    exclude: tuple[int | str, ...] = ()
    task: Literal["classification", "regression"] = "classification"
    missing: Missing = "refuse"
    text: Texts = "refuse"
    categories: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.categories and self.text == "refuse":
            raise InputError("categories need text='one_hot' or text='ordinal'")
        if self.features and self.exclude:
            raise InputError("features and exclude both choose columns, and only one of them can be given")

    @abstractmethod
    def read(self) -> RawTable:
        """The table as it stands in its file. Raises InputError if that cannot be read."""
        raise NotImplementedError

    def table(self) -> Examples:
        table = self.read()
        (target,) = table.numbers([self.target])
        chosen = self._chosen(table, target)
        categories = set(table.numbers(self.categories))
        columns = {i: self._column(table, i, i in categories) for i in chosen}
        kept = np.arange(len(table.columns[0]))
        if self.missing == "drop":
            whole = [is_present(column) for column in columns.values()]
            kept = np.flatnonzero(np.all([*whole, ~parsed(table.columns[target])[1]], axis=0))
            if not kept.size:
                raise InputError(f"{table.where}: every row has a missing value, and missing='drop' leaves none")
        y, classes = self._targets(table, target, kept)
        names = tuple(table.names)
        unfitted = Columns(
            names,
            table.named,
            tuple(names[i] for i in chosen),
            (None,) * len(chosen),
            tuple(None if column.dtype.kind == "f" else () for column in columns.values()),
            "ordinal" if self.text == "ordinal" else "one_hot",
        )
        x = matrix([column[kept] for column in columns.values()])
        return Examples(Dataset(x, y), classes, partial(fit_columns, unfitted, self.missing))

    def _chosen(self, table: RawTable, target: int) -> list[int]:
        """The numbers of the columns that are features."""
        excluded = {target, *table.numbers(self.exclude)}
        chosen = table.numbers(self.features)
        if target in chosen:
            raise InputError(f"{table.where}: features must name columns other than the target, got {self.features}")
        everything = [i for i in range(len(table.names)) if i not in excluded]
        if not chosen and everything:
            _note_counter(table, everything)
        if not chosen and not everything:
            raise InputError(f"{table.where}: features must name columns other than the target, and there are none")
        return chosen or everything

    def _column(self, table: RawTable, column: int, is_category: bool) -> np.ndarray:
        """A feature's numbers float64 [N], nan where one is missing, or its texts and None, object [N]."""
        cells = table.columns[column]
        values, missing = parsed(cells)
        if self.missing == "refuse" and missing.any():
            cell = cells[int(missing.argmax())]
            raise InputError(
                f"{table.place(int(missing.argmax()), column)}: the value is missing, got '{text_of(cell)}'; "
                "missing='drop' leaves the row out; 'mean', 'median' and 'most_frequent' fill it"
            )
        if is_category:
            return as_texts(cells)
        wrong = np.flatnonzero(np.isnan(values) & ~missing)
        if not wrong.size:
            return values
        name = table.names[column]
        for row in wrong.tolist():
            if why := fault(cells[row]):
                raise InputError(f"{table.place(row, column)}: {why}{self._as_text(name)}")
        first = int(wrong[0])
        place = f"{table.place(first, column)}: '{text_of(cells[first])}' is not a finite number"
        if len(wrong) + missing.sum() < len(cells):
            raise InputError(f"{place}, and others in its column are{self._as_text(name)}")
        texts = as_texts(cells)
        present = [text for text in texts if text is not None]
        if len(present) >= MANY and len(set(present)) == len(present):
            raise InputError(f"{place}, and all texts in its column differ; exclude=('{name}',) leaves out ids")
        if self.text == "refuse":
            raise InputError(f"{place}; text='one_hot' or text='ordinal' takes columns of text")
        return texts

    def _as_text(self, name: str) -> str:
        return "" if self.text == "refuse" else f"; categories=('{name}',) takes the column as text"

    def _targets(self, table: RawTable, target: int, kept: np.ndarray) -> tuple[np.ndarray, tuple[str, ...] | None]:
        """What is to be predicted in the rows that are kept, and the class names."""
        cells = table.columns[target]
        missing = [row for row in kept if is_missing(cells[row])]
        if missing:
            what = "target" if self.task == "regression" else "label"
            place = table.place(missing[0], target)
            cell = text_of(cells[missing[0]])
            raise InputError(f"{place}: the {what} is missing, got '{cell}'; missing='drop' leaves the row out")
        if self.task == "regression":
            return read_number_column(table, target)[kept, None], None
        labels = [text_of(cells[row]) for row in kept]
        if all(not np.isnan(loose_number(label)) for label in labels):
            for row, label in zip(kept, labels, strict=True):
                if np.isnan(number(label)):
                    raise InputError(f"{table.place(row, target)}: {fault(label)}")
        y, classes = number_labels(labels)
        counts = np.bincount(y)
        if counts.min() == 1 and not np.isnan(number(classes[0])):
            raise InputError(
                f"{table.where}, column '{table.names[target]}': class '{classes[counts.argmin()]}' has 1 example, and "
                "a stratified split needs 2 of every class; task='regression' predicts numbers"
            )
        return y, classes


def is_present(column: np.ndarray) -> np.ndarray:
    """Which values of a feature are not missing, bool [N]."""
    if column.dtype.kind == "f":
        return ~np.isnan(column)
    return np.array([cell is not None and cell == cell for cell in column])


def _note_counter(table: RawTable, features: list[int]) -> None:
    """Says so where the first of several features counts the rows: 1, 2, 3, ..."""
    values, _ = parsed(table.columns[features[0]])
    if len(features) > 1 and len(values) >= MANY and (np.diff(values) == 1).all():
        name = table.names[features[0]]
        print(
            f"note: {table.where}: column '{name}' only counts the rows; exclude=({name!r},) leaves it out",
            file=sys.stderr,
        )


def fit_columns(unfitted: Columns, missing: Missing, x: np.ndarray) -> Columns:
    """The columns with the fills and categories of the training part's raw x [N, features]."""
    from sklearn.preprocessing import OrdinalEncoder

    texts = np.array([categories is not None for categories in unfitted.categories])
    fills = unfitted.fills if missing in ("refuse", "drop") else fit_fills(unfitted.features, texts, missing, x)
    categories: list[tuple[str, ...] | None] = [None] * len(texts)
    if texts.any():
        filled = [[fill if cell is None else cell for cell in x[:, i]] for i, fill in enumerate(fills) if texts[i]]
        present = OrdinalEncoder().fit(np.array(filled, dtype=object).T).categories_
        for i, column in zip(np.flatnonzero(texts), present, strict=True):
            categories[i] = tuple(column)
    return replace(unfitted, fills=fills, categories=tuple(categories))


def fit_fills(
    features: tuple[str, ...], texts: np.ndarray, missing: Missing, x: np.ndarray
) -> tuple[float | str | None, ...]:
    """What replaces a missing value of each feature. Raises InputError for a feature that has no value at all."""
    from sklearn.impute import SimpleImputer

    for name, column in zip(features, x.T, strict=True):
        if not is_present(column).any():
            raise InputError(f"column '{name}' has no value in the training part; exclude=('{name}',) leaves it out")
    fills = np.empty(len(texts), object)
    if not texts.all():
        fills[~texts] = SimpleImputer(strategy=missing).fit(x[:, ~texts].astype(np.float64)).statistics_.tolist()
    if texts.any():
        fills[texts] = SimpleImputer(strategy="most_frequent", missing_values=None).fit(x[:, texts]).statistics_
    return tuple(fills)


def number_labels(labels: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Every label's place [N] int32 among the sorted labels, and these: 2 comes before 10 if all labels are numbers."""
    numeric = not any(np.isnan(number(label)) for label in set(labels))
    meaning: dict[str, Any] = {label: Decimal(label) if numeric else label for label in set(labels)}
    present = sorted(set(meaning.values()))
    place = {value: i for i, value in enumerate(present)}
    y = np.array([place[meaning[label]] for label in labels], np.int32)
    return y, tuple(_plain(value) if numeric else value for value in present)


def _plain(value: Decimal) -> str:
    """The number in at most 15 digits where these are exact, else in all its digits."""
    short = f"{float(value) + 0:.15g}"  # + 0: no -0
    if Decimal(short) == value:
        return short
    digits = f"{value:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
