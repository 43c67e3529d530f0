"""What every reader of data needs: float32, a check for finite values, the error for a file that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxbp.errors import InputError


def to_float32(values: np.ndarray) -> np.ndarray:
    """`values` as float32, not copied if they already are. Values that are too large become infinite, unwarned."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def check_finite(where: str, values: np.ndarray) -> None:
    """Raises InputError, its text beginning with `where`, row and column, for a value that is not finite in float32."""
    finite = np.isfinite(to_float32(values))
    if not finite.all():
        row, *column = (int(i) for i in np.argwhere(~finite)[0])
        place = f"row {row}, column {', '.join(map(str, column))}" if column else f"row {row}"
        raise InputError(f"{where} {place} holds {values[row, *column]}, and every value must be a finite float32")


def unreadable(path: Path | str, error: Exception) -> InputError:
    """The error for a file that cannot be opened or is damaged."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return InputError(f"cannot read {path} ({why})")
