"""The sixteen logical operators of two inputs: the smallest data there is. Xor needs a hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits

# Number k in this list has the bits of k as its results for (a, b) = (0, 0), (0, 1), (1, 0), (1, 1).
Operator = Literal[
    "false",
    "and",
    "a_and_not_b",
    "a",
    "b_and_not_a",
    "b",
    "xor",
    "or",  # 0000 0001 0010 0011 0100 0101 0110 0111
    "nor",
    "xnor",
    "not_b",
    "b_implies_a",
    "not_a",
    "a_implies_b",
    "nand",
    "true",  # 1000 1001 ... 1111
]


@dataclass(frozen=True)
class Logic(DataConfig):
    """All four rows, x [4, 2] and y [4, 1] of 0 and 1, for training and for the test.

    Args:
        operator: name of the operator of inputs a and b
    """

    operator: Operator

    def load(self) -> Splits:
        results = f"{get_args(Operator).index(self.operator):04b}"
        x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
        y = np.array([[bit] for bit in results], np.float32)
        return Splits(Dataset(x, y), None, Dataset(x, y), ("false", "true"))
