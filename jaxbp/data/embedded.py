"""The small data sets that come with scikit-learn: nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxbp.data.moved import Movable
from jaxbp.data.pipeline import Dataset
from jaxbp.data.prepare import Examples, Tabular
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Embedded(Movable, Tabular):
    """Digits [1797, 64] (values 0..16), iris [150, 4], wine [178, 13] and breast_cancer [569, 30] with class labels;
    diabetes [442, 10] with targets [442, 1].

    Args:
        name: which data set
        image: whether x is [N, 8, 8, 1] instead of [N, 64]; for digits only
    """

    name: Literal["digits", "iris", "wine", "breast_cancer", "diabetes"]
    image: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image and self.name != "digits":
            raise InputError(f"image=True is for name='digits' only, got name='{self.name}'")

    def table(self) -> Examples:
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{self.name}")()
        x = bunch.data.reshape(-1, 8, 8, 1) if self.image else bunch.data
        if self.name == "diabetes":
            return Examples(Dataset(x, bunch.target[:, None]), None)
        names = tuple(str(name) for name in bunch.target_names)
        return Examples(Dataset(x, bunch.target.astype(np.int32)), names)
