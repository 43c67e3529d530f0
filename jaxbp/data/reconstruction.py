"""Data whose targets are its inputs, for autoencoders."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.errors import InputError
from jaxbp.typed import Count


@dataclass(frozen=True)
class Encoder(DataConfig):
    """The encoder problem (Ackley, Hinton & Sejnowski 1985): x and y [size, size] with one unit on in each row.

    All rows are in the training part and in the test part. A net with a narrow hidden layer must find a code for them.

    Args:
        size: number of patterns, and of units at both ends
    """

    size: Count = 8

    def load(self) -> Splits:
        rows = np.eye(self.size, dtype=np.float32)
        return Splits(Dataset(rows, rows), None, Dataset(rows, rows), None)


@dataclass(frozen=True)
class Reconstruction(DataConfig):
    """The inputs of another data set: x as they are, and y [N, features] the same numbers in a row. No sequences.

    Args:
        data: the data set that has the inputs; its keys on targets must keep their defaults
    """

    data: DataConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("one_hot", "scale_targets"):
            if getattr(self.data, key, False):
                raise InputError(f"Reconstruction: {key} must be False, for the targets are the inputs")

    def load(self) -> Splits:
        splits = self.data.load()
        if splits.train.mask is not None or splits.train.x.dtype.kind != "f":
            raise InputError(f"Reconstruction: {type(self.data).__name__} has sequences or ids as inputs")
        parts = splits.map(lambda part: Dataset(part.x, part.x.reshape(len(part), -1)))
        preparation = replace(splits.preparation, classes=None, target_scaling=splits.preparation.scaling)
        return replace(parts, classes=None, fitted=preparation)

    def augment(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.data.augment(key, x)
