"""What raw rows go through before a model sees them: fitted on the training part, kept as plain data.

Training goes through the same functions, so that a row has the same bits in prediction. Neither the data nor
scikit-learn is needed to prepare new rows.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxbp.data.checks import check_finite, to_float32
from jaxbp.data.columns import Columns, read_file, read_number_column
from jaxbp.data.csv_reader import first_line_has_names
from jaxbp.data.npy import read_npy
from jaxbp.data.raw_table import GIVEN
from jaxbp.data.vocabulary import Vocabulary
from jaxbp.errors import InputError
from jaxbp.typed import Count, Typed


@dataclass(frozen=True)
class Numbers(Typed):
    """Rows that are arrays of numbers.

    Args:
        shape: of one row as the model gets it
        dtype: NumPy's name of the type that the training rows had
        pixels: whether rows are bytes 0..255, which become 0..1
        steps: whether the first axis of a row is time, of any length
    """

    shape: tuple[int, ...]
    dtype: str = "float64"
    pixels: bool = False
    steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        np.dtype(self.dtype)  # TypeError for what is no type

    @classmethod
    def of(cls, x: np.ndarray) -> Numbers:
        """The description of rows like those of x [N, ...]."""
        return cls(x.shape[1:], x.dtype.name)

    @classmethod
    def of_images(cls, x: np.ndarray) -> Numbers:
        """The description of images like those of x [N, ...]: unsigned bytes become 0..1, other types stay."""
        return cls(x.shape[1:], x.dtype.name, pixels=x.dtype == np.uint8)

    def read(self, rows: Any) -> np.ndarray:
        """Raw rows as an array [N, *shape] of the training rows' type.

        rows: an array-like, flat or not, or the path of a .npy file or of a CSV file of numbers. Raises InputError for
        another shape, for values that are not finite, and where `pixels` for others than bytes.
        """
        values = self._shaped(read_numbers(rows))
        check_finite(f"{GIVEN}:", values)
        if self.pixels:
            wrong = values[(values != np.floor(values)) | (values < 0) | (values > 255)]
            if wrong.size:
                raise InputError(f"{GIVEN}: hold {wrong[0]:g}, and the model's images have whole numbers in 0..255")
            return values.astype(np.uint8)
        return values.astype(self.dtype) if np.dtype(self.dtype).kind == "f" else values

    def encode(self, x: np.ndarray) -> np.ndarray:
        """x [N, *shape]; bytes divided by 255 where `pixels`."""
        return x.astype(np.float32) / np.float32(255) if self.pixels else x

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        """The values as [N, *shape]: a row may be flat, and have or lack axes of one entry."""
        row = values.shape[1:]
        if self.steps and len(row) == len(self.shape) and row[1:] == self.shape[1:]:
            return values
        squeezed = [[size for size in shape if size != 1] for shape in (row, self.shape)]
        flat = 1 in (len(row), len(self.shape)) and math.prod(row) == math.prod(self.shape)
        if row and not self.steps and (flat or squeezed[0] == squeezed[1]):
            return values.reshape(len(values), *self.shape)
        sizes = ", ".join(map(str, ("T", *self.shape[1:]) if self.steps else self.shape))
        hint = "; a single row stands in brackets of its own" if values.ndim == len(self.shape) else ""
        raise InputError(f"{GIVEN}: have shape {list(values.shape)}, and the model takes [N, {sizes}]{hint}")


@dataclass(frozen=True)
class Ids(Typed):
    """Rows of ids [N, T], whole numbers. There is nothing to prepare.

    Args:
        count: ids lie in 0..count-1; None: their number is not known
        vocabulary: what they stand for; None: no text, or the characters that are the names of the classes
    """

    count: Count | None = None
    vocabulary: Vocabulary | None = None

    def read(self, rows: Any) -> np.ndarray:
        """The rows as int32 [N, T]. Raises InputError where they hold anything else."""
        ids = read_numbers(rows)
        allowed = "whole numbers from 0" if self.count is None else f"whole numbers in 0..{self.count - 1}"
        whole = (ids == np.floor(ids)).all() and (ids >= 0).all()
        if ids.ndim != 2 or not whole or (self.count is not None and (ids >= self.count).any()):
            raise InputError(f"{GIVEN}: the model takes ids [N, T], {allowed}, and does not prepare anything else")
        return ids.astype(np.int32)

    def encode(self, x: np.ndarray) -> np.ndarray:
        """x itself."""
        return x


@dataclass(frozen=True)
class Scaling(Typed):
    """Each feature x as scikit-learn's StandardScaler and MinMaxScaler have it, bit for bit.

    Args:
        kind: "standard" is (x - offset) / scale, "min_max" is x * scale + offset
        offset: one number a feature
        scale: one number a feature, not 0
    """

    kind: Literal["standard", "min_max"]
    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, x: np.ndarray) -> np.ndarray:
        """x [N, ...] scaled, in its own floating-point type; integers in float64."""
        rows = x.reshape(len(x), -1)
        rows = rows if rows.dtype.kind == "f" else rows.astype(np.float64)
        offset = np.array(self.offset, rows.dtype)
        scale = np.array(self.scale, rows.dtype)
        return ((rows - offset) / scale if self.kind == "standard" else rows * scale + offset).reshape(x.shape)

    def undo(self, y: np.ndarray) -> np.ndarray:
        """The float64 numbers that `apply` makes y [N, ...] of."""
        rows = np.asarray(y, np.float64).reshape(len(y), -1)
        offset = np.array(self.offset)
        scale = np.array(self.scale)
        return (rows * scale + offset if self.kind == "standard" else (rows - offset) / scale).reshape(np.shape(y))


@dataclass(frozen=True)
class Preparation(Typed):
    """From raw rows to what the model takes, and from its predictions to the targets' own units.

    Args:
        raw: what a raw row is, and how it becomes numbers
        scaling: of the inputs; None: they stay
        target_scaling: of the targets; None: they stay
        classes: names of the classes, None for regression
    """

    raw: Numbers | Ids | Columns
    scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    classes: tuple[str, ...] | None = None

    def apply(self, rows: Any) -> np.ndarray:
        """x [N, ...] float32 (ids: int32), the very bits that training saw of the same raw rows.

        rows: an array-like [N, ...], or the path of a CSV or .npy file; for a table also a Parquet file, a list of
        mappings from names to cells, a mapping from names to columns, or a pandas frame. Raises InputError, naming row
        and column, for rows that do not fit.
        """
        x = self.raw.encode(self.raw.read(rows))
        if len(x) == 0:
            raise InputError(f"{GIVEN}: there are none")
        if isinstance(self.raw, Ids):
            return x
        x = to_float32(x if self.scaling is None else self.scaling.apply(x))
        check_finite("the prepared rows:", x)
        return x

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Predictions [N, O] in the targets' own units: float64 where they were scaled, else y itself."""
        return y if self.target_scaling is None else self.target_scaling.undo(y)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with exact floats, from which `from_json` makes the same preparation."""
        raw = {"type": type(self.raw).__name__} | dataclasses.asdict(self.raw)
        return dataclasses.asdict(dataclasses.replace(self, raw=Ids())) | {"raw": raw}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Preparation:
        """What to_json wrote. Raises InputError for anything else."""
        kinds = {kind.__name__: kind for kind in (Numbers, Ids, Columns)}
        try:
            raw = dict(data["raw"])
            kind = kinds[raw.pop("type")]
            if raw.get("vocabulary"):
                raw["vocabulary"] = Vocabulary(**raw["vocabulary"])
            return cls(
                kind(**_tuples(raw)),
                data["scaling"] and Scaling(**_tuples(data["scaling"])),
                data["target_scaling"] and Scaling(**_tuples(data["target_scaling"])),
                _tuples(data["classes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is no preparation of data ({error})") from error


def _tuples(data: Any) -> Any:
    """Plain data with tuples in place of lists."""
    if isinstance(data, dict):
        return {key: _tuples(value) for key, value in data.items()}
    return tuple(map(_tuples, data)) if isinstance(data, list | tuple) else data


def read_numbers(rows: Any) -> np.ndarray:
    """The array of numbers in an array-like, or in the .npy, CSV or Parquet file at a path, each line of it a row."""
    if isinstance(rows, str | Path):
        values = read_npy(Path(rows)) if Path(rows).suffix == ".npy" else read_number_table(rows)
    else:
        try:
            values = np.asarray(rows)
        except ValueError as error:
            raise InputError(f"{GIVEN}: are no array ({error})") from error
    if values.dtype.kind not in "fiub":
        raise InputError(f"{GIVEN}: must be an array of numbers, got {values.dtype} {list(values.shape)}")
    return values


def read_number_table(path: str | Path) -> np.ndarray:
    """The numbers [N, columns] in a CSV or Parquet file, nan where one is missing. Names in its first line are left."""
    table = read_file(path, partial(first_line_has_names, path, "auto"))
    return np.column_stack([read_number_column(table, i) for i in range(len(table.names))])
