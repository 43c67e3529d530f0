"""Tables in Parquet files."""

from __future__ import annotations

from dataclasses import dataclass

from jaxbp.data.from_files import FromFiles
from jaxbp.data.raw_table import RawTable, read_parquet
from jaxbp.data.table import Table


@dataclass(frozen=True)
class Parquet(FromFiles, Table):
    """A table in a Parquet file. It needs pandas and pyarrow: pip install 'jaxbp[tables]'.

    Args:
        path: path of the file
    """

    path: str

    def read(self) -> RawTable:
        return read_parquet(self.path, self.allowance())
