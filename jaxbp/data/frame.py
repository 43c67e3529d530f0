"""Tables that a program already holds as a pandas frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from jaxbp.data.raw_table import RawTable, from_frame, import_pandas
from jaxbp.data.table import Table
from jaxbp.errors import InputError

FRAMES: dict[str, Any] = {}  # of this process, by the sha256 of their content


@dataclass(frozen=True)
class Frame(Table):
    """A pandas frame without its index, made by `Frame.of(frame, target="kind")`. A run folder keeps the frame's sha256
    only: a process that goes on with the run makes it again, and prediction does without it.

    Args:
        frame: sha256 of the frame's names, types and values
    """

    frame: str

    @classmethod
    def of(cls, frame: Any, **keys: Any) -> Frame:
        """The config of a pandas.DataFrame; keys are those of every table."""
        pandas = import_pandas("Frame")
        if not isinstance(frame, pandas.DataFrame):
            raise InputError(f"Frame.of takes a pandas.DataFrame, got {type(frame).__name__}")
        total = hashlib.sha256(repr([(str(name), str(kind)) for name, kind in frame.dtypes.items()]).encode())
        try:
            total.update(pandas.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        except TypeError as error:
            raise InputError(f"Frame.of takes numbers and texts in its cells ({error})") from error
        FRAMES[total.hexdigest()] = frame.copy()
        return cls(frame=total.hexdigest(), **keys)

    def read(self) -> RawTable:
        if self.frame not in FRAMES:
            raise InputError(f"the frame {self.frame[:12]} is not in this process: Frame.of(frame) brings it in")
        return from_frame("the frame", FRAMES[self.frame])
