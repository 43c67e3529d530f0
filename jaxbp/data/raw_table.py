"""A table as it was read or given, before anything is known of its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxbp.data.outside import CELL, Allowance, reading
from jaxbp.errors import InputError, unknown

GIVEN = "the rows"  # what messages call rows that come from no file
BATCH = 4096  # rows that are decoded at once


class RawTable(NamedTuple):
    """Names and cells of N rows."""

    where: str  # the file, or GIVEN
    names: list[str]  # of the columns; their numbers from 0 if not `named`
    columns: list[Sequence[Any] | np.ndarray]  # of N cells each
    named: bool = True
    lines: Sequence[int] | None = None  # number of each row's line in the file

    def place(self, row: int, column: int) -> str:
        """Where a cell stands, in words."""
        line = f"row {row}" if self.lines is None else f"line {self.lines[row]}"
        return f"{self.where}, {line}, column '{self.names[column]}'"

    def numbers(self, columns: Sequence[int | str]) -> list[int]:
        """The numbers from 0 of columns by name or number; negative ones count from the end. Raises InputError."""
        count = len(self.names)
        number = {name: i for i, name in enumerate(self.names)}
        for column in columns:
            if isinstance(column, int) and not -count <= column < count:
                raise InputError(f"{self.where}: has no column {column}, its columns are 0..{count - 1}")
            if isinstance(column, str) and column not in number:
                raise unknown(f"column of {self.where}", column, self.names)
        return [column % count if isinstance(column, int) else number[column] for column in columns]


def check_names(where: str, names: Iterable[str]) -> None:
    """Raises InputError if two columns have one name."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{where}: two columns have the name '{name}', and names must differ")


def from_records(records: Sequence[Any]) -> RawTable:
    """The table of a list of mappings, one a row, all with the same keys."""
    names = list(records[0])
    for row, record in enumerate(records):
        if not isinstance(record, Mapping) or record.keys() != records[0].keys():
            keys = ", ".join(map(str, record)) if isinstance(record, Mapping) else repr(record)
            raise InputError(f"{GIVEN}: all must have the same names; row 0 has {', '.join(names)}, row {row} {keys}")
    return RawTable(GIVEN, [str(name) for name in names], [[record[name] for record in records] for name in names])


def from_mapping(columns: Mapping[Any, Any]) -> RawTable:
    """The table of a mapping from names to columns of equal length."""
    for name, column in columns.items():
        if isinstance(column, str) or not hasattr(column, "__len__"):
            raise InputError(f"{GIVEN}: a mapping holds columns, and '{name}' is {column!r}; a single row is [{{...}}]")
    lengths = {str(name): len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{GIVEN}: all columns must have one length, got {lengths}")
    return RawTable(GIVEN, list(lengths), [_cells(column) for column in columns.values()])


def _cells(column: Any) -> Sequence[Any] | np.ndarray:
    return column if isinstance(column, np.ndarray) and column.dtype.kind in "fiub" else list(column)


def from_frame(where: str, frame: Any) -> RawTable:
    """The table of a pandas frame. Its index is left out."""
    names = [str(name) for name in frame.columns]
    check_names(where, names)
    return RawTable(where, names, [_series_cells(frame.iloc[:, i]) for i in range(len(names))])


def _series_cells(series: Any) -> Sequence[Any] | np.ndarray:
    values = series.to_numpy()
    if values.dtype.kind in "fiub":
        return values
    return [None if missing else cell for cell, missing in zip(series, series.isna(), strict=True)]


def import_pandas(why: str) -> Any:
    """The module pandas. Raises InputError, with how to install it, where it is missing."""
    try:
        import pandas
    except ImportError as error:
        raise InputError(f"{why} needs pandas and pyarrow: pip install 'jaxbp[tables]' ({error})") from error
    return pandas


def read_parquet(path: str | Path, allowance: Allowance | None = None) -> RawTable:
    """The table in a Parquet file. Raises InputError if it cannot be read, or takes more memory than is allowed."""
    import_pandas(f"reading {path}")
    try:
        from pyarrow import Table
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f"reading {path} needs pyarrow: pip install 'jaxbp[tables]'") from error
    allowance = allowance or Allowance()
    with reading(path) as file, ParquetFile(file) as parquet:
        facts = parquet.metadata
        groups = [facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)]
        claim = f"it claims {facts.num_rows:,} rows of {facts.num_columns:,} columns"
        allowance.take(path, CELL * facts.num_rows * facts.num_columns + sum(groups), claim)
        batches = []
        for batch in parquet.iter_batches(BATCH):
            allowance.take(path, batch.nbytes, claim)
            batches.append(batch)
        frame = Table.from_batches(batches, parquet.schema_arrow).to_pandas()
        return from_frame(str(path), frame)
