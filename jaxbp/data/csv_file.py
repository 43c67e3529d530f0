"""Tables in text files, one example a line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from jaxbp.data.csv_reader import first_line_has_names, read_csv
from jaxbp.data.from_files import FromFiles
from jaxbp.data.raw_table import RawTable
from jaxbp.data.table import Table
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Csv(FromFiles, Table):
    """A table in a text file in UTF-8, such as spreadsheets write.

    Args:
        path: path of the file
        header: whether the first line holds the columns' names; "auto": found, and refused where it is not clear
        delimiter: the one character between columns (a blank stands for any run of blanks and tabs), "tab", or "auto"
    """

    path: str
    header: bool | Literal["auto"] = "auto"
    delimiter: str = ","

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.delimiter) != 1 and self.delimiter not in ("auto", "tab"):
            raise InputError(f"delimiter must be one character, 'tab' or 'auto', got {self.delimiter!r}")

    def read(self) -> RawTable:
        delimiter = "\t" if self.delimiter == "tab" else self.delimiter
        return read_csv(self.path, delimiter, partial(first_line_has_names, self.path, self.header), self.allowance())
