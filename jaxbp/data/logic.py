"""The sixteen logical operators of two inputs: the smallest data there is. Xor needs a hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits

Operator = Literal[  # the results for (a, b) = (0, 0), (0, 1), (1, 0), (1, 1) are the bits of the place in this list
    "false",  # 0000
    "and",  # 0001
    "a_and_not_b",  # 0010
    "a",  # 0011
    "b_and_not_a",  # 0100
    "b",  # 0101
    "xor",  # 0110
    "or",  # 0111
    "nor",  # 1000
    "xnor",  # 1001
    "not_b",  # 1010
    "b_implies_a",  # 1011
    "not_a",  # 1100
    "a_implies_b",  # 1101
    "nand",  # 1110
    "true",  # 1111
]


@dataclass(frozen=True)
class Logic(DataConfig):
    """All four rows, x [4, 2] and y [4, 1] of 0 and 1, in the training part and in the test part.

    Args:
        operator: name of the operator on inputs a and b
    """

    operator: Operator

    def load(self) -> Splits:
        results = f"{get_args(Operator).index(self.operator):04b}"
        x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
        y = np.array([[bit] for bit in results], np.float32)
        return Splits(Dataset(x, y), None, Dataset(x, y), ("false", "true"))
