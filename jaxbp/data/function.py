"""Regression data from a known function of one variable, with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from jaxbp.data.pipeline import Dataset
from jaxbp.data.prepare import Examples, Tabular
from jaxbp.errors import InputError
from jaxbp.typed import Range

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
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
    """x [N, 1] uniform in [low, high) and y [N, 1] = f(x) + noise.

    Args:
        name: f
        examples: number of examples, those of the test part included
        low: lower bound of x
        high: upper bound of x, exclusive; greater than low
        noise: standard deviation of the Gaussian noise on y
    """

    name: Literal["sine", "cosine", "sinc", "gaussian", "square", "polynomial", "absolute", "step"]
    examples: Annotated[int, Range(2)] = 200
    low: Annotated[float, Range(-1e6, 1e6)] = -3.0
    high: Annotated[float, Range(-1e6, 1e6)] = 3.0
    noise: Annotated[float, Range(0, 1e6)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise InputError(f"Function: low must be below high, got {self.low} and {self.high}")

    def table(self) -> Examples:
        rng = np.random.default_rng(self.seed)
        x = rng.uniform(self.low, self.high, (self.examples, 1))
        y = FUNCTIONS[self.name](x) + self.noise * rng.normal(size=x.shape)
        return Examples(Dataset(x, y), None)
