"""The causes that the diagnosis can name: what people really get wrong in a hand-written backward pass."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """A likely cause, in the words of the report."""

    FACTOR = "wrong factor"
    SIGN = "sign flipped"
    MEAN = "mean instead of sum"
    SUM = "sum instead of mean"
    ZERO = "zero"
    MISSING = "missing leaf"
    SWAPPED = "leaves swapped"
    TRANSPOSED = "transposed"
    AXES = "summed over the wrong axes"
    BROADCAST = "broadcasting error"
    FLIPPED = "kernel not flipped"
    DERIVATIVE = "activation derivative left out"
    POINT = "activation derivative taken at the wrong point"
    MASK = "mask of the wrong layer"
    STALE = "stale cache"
    DROPPED = "last example dropped"
    OVERWRITTEN = "overwritten instead of added"
    SHIFTED = "time steps shifted"
    LAST_STEP = "last time step dropped"
    ORDER = "order of gates confused"
    PATH = "a path is missing"
    PENALTY = "penalty"
    PRECISION = "computed in a lower precision"
    UNKNOWN = "unknown"
