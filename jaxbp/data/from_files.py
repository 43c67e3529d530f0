"""What all data from files share: how much memory reading them may take."""

from __future__ import annotations

from dataclasses import dataclass

from jaxbp.data.outside import Allowance
from jaxbp.data.pipeline import DataConfig
from jaxbp.typed import Count


@dataclass(frozen=True, kw_only=True)
class FromFiles(DataConfig):
    """Keys of data that are read from files.

    Args:
        max_bytes: bytes of memory that reading the files may take; None: half of the machine's memory
    """

    max_bytes: Count | None = None

    def allowance(self) -> Allowance:
        """The memory that one reading of all files may take."""
        return Allowance(self.max_bytes, "a larger data.max_bytes allows more")
