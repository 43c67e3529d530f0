"""The columns of a table as features: what was fitted on the training part, and how new rows are read by it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxbp.data.cells import fault, is_missing, parsed, text_of
from jaxbp.data.csv_reader import HasNames, read_csv
from jaxbp.data.outside import Allowance
from jaxbp.data.raw_table import GIVEN, RawTable, from_frame, from_mapping, from_records, read_parquet
from jaxbp.errors import InputError, unknown
from jaxbp.typed import Typed

MANY_TEXTS = Allowance(remedy="text='ordinal' makes one column of them, exclude leaves it out")


@dataclass(frozen=True)
class Columns(Typed):
    """Rows that are cells of named columns, of which some are features.

    A missing value becomes its column's fill. A text becomes a 1 at its place among the column's categories, or this
    place itself where `text` is "ordinal".

    Args:
        names: of all columns of the training table, in its order
        named: whether these are names, or numbers of the columns of a file without names
        features: names of the columns that are features, in the model's order
        fills: for each feature what replaces a missing value; None: nothing may be missing
        categories: for each feature its texts in order; None: it holds numbers
        text: how texts become numbers
    """

    names: tuple[str, ...]
    named: bool
    features: tuple[str, ...]
    fills: tuple[float | str | None, ...]
    categories: tuple[tuple[str, ...] | None, ...]
    text: Literal["one_hot", "ordinal"]

    def read(self, rows: Any) -> np.ndarray:
        """Raw rows as one matrix [N, features], as `matrix` makes it. Raises InputError for rows that do not fit.

        rows: the path of a CSV or Parquet file, a list of mappings from names to cells, a mapping from names to
        columns, a pandas frame, or an array-like [N, features] in the model's order. The target and other columns of
        the training table may be there too.
        """
        table = self._table(rows)
        check_known(table, self.names)
        place = {name: i for i, name in enumerate(table.names)}
        absent = [name for name in self.features if name not in place]
        if absent:
            raise InputError(f"{table.where}: has no column '{absent[0]}', which the model needs")
        fitted = zip(self.features, self.fills, self.categories, strict=True)
        return matrix([self._feature(table, place[name], fill, texts) for name, fill, texts in fitted])

    def encode(self, x: np.ndarray) -> np.ndarray:
        """The matrix [N, features] as numbers [N, model's inputs] float64.

        A text that no training row has becomes zeros. Raises InputError for one where `text` is "ordinal".
        """
        fitted = zip(self.features, self.fills, self.categories, strict=True)
        return np.column_stack([self._encoded(x[:, i], *column) for i, column in enumerate(fitted)])

    def _encoded(
        self, cells: np.ndarray, name: str, fill: float | str | None, categories: tuple[str, ...] | None
    ) -> np.ndarray:
        if categories is None:
            values = cells.astype(np.float64)
            return values if fill is None else np.where(np.isnan(values), fill, values)
        place: dict[Any, int] = {text: i for i, text in enumerate(categories)}
        texts = [fill if cell is None else cell for cell in cells]
        codes = np.array([place.get(text, -1) for text in texts])
        if self.text == "one_hot":
            size = 9 * len(texts) * len(place)
            MANY_TEXTS.check(f"column '{name}'", size, f"its {len(place):,} texts become as many columns")
            return (codes[:, None] == np.arange(len(place))).astype(np.float64)
        if codes.min() < 0:
            text = texts[codes.argmin()]
            raise InputError(f"column '{name}': no training row has '{text}'; text='one_hot' would make it zeros")
        return codes.astype(np.float64)

    def _feature(
        self, table: RawTable, column: int, fill: float | str | None, categories: tuple[str, ...] | None
    ) -> np.ndarray:
        """One column as `matrix` takes it: numbers, or texts where it has categories."""
        if categories is None:
            feature = read_number_column(table, column)
            missing = np.isnan(feature)
        else:
            feature = as_texts(table.columns[column])
            missing = np.array([text is None for text in feature])
            for row, text in enumerate(feature):
                if text is not None and text not in categories:
                    raise unknown(f"text in {table.place(row, column)}", text, categories)
        if fill is None and missing.any():
            why = "the value is missing, and the model has learned no value for it (data.missing)"
            raise InputError(f"{table.place(int(missing.argmax()), column)}: {why}")
        return feature

    def _table(self, rows: Any) -> RawTable:
        """The rows as a table with names."""
        if isinstance(rows, str | Path):
            return self._by_place(read_file(rows, self._has_names))
        pandas = sys.modules.get("pandas")  # who hands in a frame has imported it
        if pandas and isinstance(rows, pandas.DataFrame):
            return from_frame(GIVEN, rows)
        if isinstance(rows, Mapping):
            return from_mapping(rows)
        if isinstance(rows, Sequence) and rows and isinstance(rows[0], Mapping):
            return from_records(rows)
        return from_array(rows, self.features)

    def _has_names(self, first: Sequence[str], _: Sequence[Sequence[str]]) -> bool:
        """Whether the first line of a file to predict holds names."""
        if self.named:
            return not set(self.names).isdisjoint(first)
        return tuple(first) in (self.names, self.features)

    def _by_place(self, table: RawTable) -> RawTable:
        """The table of a file; where it has no names and only the features' columns, these have the features' names."""
        if table.named or (not self.named and len(table.names) == len(self.names)):
            return table
        if self.named:
            raise InputError(
                f"{table.where}: its first line must hold the columns' names, such as '{self.features[0]}'"
            )
        if len(table.names) == len(self.features):
            return table._replace(names=list(self.features))
        raise InputError(
            f"{table.where}: has {len(table.names)} columns, and needs the {len(self.features)} features or all "
            f"{len(self.names)} columns of the training file"
        )


def read_file(path: str | Path, has_names: HasNames) -> RawTable:
    """The table in a Parquet file, by its name's end, or else in a CSV file, whose delimiter is found."""
    parquet = Path(path).suffix.lower() in (".parquet", ".pq")
    return read_parquet(path) if parquet else read_csv(path, "auto", has_names)


def read_number_column(table: RawTable, column: int) -> np.ndarray:
    """float64 [N], nan where a value is missing. Raises InputError, naming line and column, for what is no number."""
    cells = table.columns[column]
    values, missing = parsed(cells)
    wrong = np.flatnonzero(np.isnan(values) & ~missing)
    if wrong.size:
        cell = cells[wrong[0]]
        why = fault(cell) or f"'{text_of(cell)}' is not a finite number"
        raise InputError(f"{table.place(int(wrong[0]), column)}: {why}")
    return values


def check_known(table: RawTable, names: Iterable[str]) -> None:
    """Raises InputError for a column of the table that is not among the names."""
    known = set(names)
    for name in table.names:
        if name not in known:
            raise unknown(f"column in {table.where}", name, known)


def from_array(rows: Any, features: Sequence[str]) -> RawTable:
    """The table of an array-like [N, features]."""
    cells = rows if isinstance(rows, np.ndarray) else np.array(rows, dtype=object)
    if cells.ndim != 2 or cells.shape[1] != len(features):
        hint = "; a single row stands in brackets of its own" if cells.ndim == 1 else ""
        raise InputError(f"{GIVEN}: have shape {list(cells.shape)}, and the model takes [N, {len(features)}]{hint}")
    return RawTable(GIVEN, list(features), list(cells.T))


def as_texts(cells: Iterable[Any]) -> np.ndarray:
    """Cells as texts without blanks around them, and None where one is missing; object [N]."""
    return np.array([None if is_missing(cell) else text_of(cell) for cell in cells], dtype=object)


def matrix(columns: list[np.ndarray]) -> np.ndarray:
    """Columns [N] side by side [N, columns]: float64, or objects where some hold texts."""
    if all(column.dtype.kind == "f" for column in columns):
        return np.column_stack(columns)
    return np.column_stack([column.astype(object) for column in columns])
