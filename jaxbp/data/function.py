"""Regression data made from a known function of one variable, with noise."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxbp.data.pipeline import Dataset, Splits
from jaxbp.data.prepare import Tabular
from jaxbp.errors import InputError

FUNCTIONS = {
    "sine": np.sin,
    "cosine": np.cos,
    "sinc": np.sinc,  # sin(pi x) / (pi x)
    "gaussian": lambda x: np.exp(-x * x),
    "square": np.square,
    "polynomial": lambda x: x**3 - x,
    "absolute": np.abs,
    "step": lambda x: (x >= 0).astype(float),
}


@dataclass(frozen=True)
class Function(Tabular):
    """x [N, 1] uniform in [low, high) and y [N, 1] = f(x) + noise."""
    name: Literal["sine", "cosine", "sinc", "gaussian", "square", "polynomial", "absolute", "step"]  # f
    examples: int = 200  # before the test part is split off, at least 2
    low: float = -3.0  # least x, at least -1e6
    high: float = 3.0  # x stays below, greater than low, at most 1e6
    noise: float = 0.0  # standard deviation of the Gaussian noise on y, in [0, 1e6]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples < 2:
            raise InputError(f"examples must be at least 2, got {self.examples}")
        if not -1e6 <= self.low < self.high <= 1e6:
            raise InputError(f"low and high must satisfy -1e6 <= low < high <= 1e6, got {self.low} and {self.high}")
        if not 0 <= self.noise <= 1e6:
            raise InputError(f"noise must lie in [0, 1e6], got {self.noise}")

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        x = rng.uniform(self.low, self.high, (self.examples, 1))
        y = FUNCTIONS[self.name](x) + self.noise * rng.normal(size=x.shape)
        return self.split(Dataset(x, y), None)
