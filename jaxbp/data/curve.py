"""Periodic curves in the plane, point by point. At a crossing the next point depends on the points before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.typed import Count, Range, Seed

CURVES = {  # name: the point at phase t
    "circle": lambda t: (np.cos(t), np.sin(t)),
    "ellipse": lambda t: (np.cos(t), 0.5 * np.sin(t)),
    "eight": lambda t: (np.sin(t), np.sin(2 * t)),
    "lissajous": lambda t: (np.sin(2 * t), np.sin(3 * t)),
}


@dataclass(frozen=True)
class Curve(DataConfig):
    """x, y [N, length, 2]: the points of a curve from a random phase on, and the point after each of them. "eight" and
    "lissajous" cross themselves, so the next point is no function of the point alone.

    Args:
        name: which curve
        length: points in an example
        period: points in one turn
        noise: standard deviation of the Gaussian noise on x
        examples: number of training examples
        test_examples: number of test examples
        seed: seed of phases and noise
    """

    name: Literal["circle", "ellipse", "eight", "lissajous"] = "lissajous"
    length: Count = 60
    period: Annotated[float, Range(4)] = 40.0
    noise: Annotated[float, Range(0, 1)] = 0.0
    examples: Count = 500
    test_examples: Count = 100
    seed: Seed = 0

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        return Splits(self.draw(rng, self.examples), None, self.draw(rng, self.test_examples), None)

    def draw(self, rng: np.random.Generator, count: int) -> Dataset:
        """`count` examples."""
        phase = 2 * np.pi * (rng.uniform(size=(count, 1)) + np.arange(self.length + 1) / self.period)
        points = np.stack(CURVES[self.name](phase), -1).astype(np.float32)
        x = points[:, :-1] + self.noise * rng.normal(size=(count, self.length, 2)).astype(np.float32)
        return Dataset(x.astype(np.float32), points[:, 1:], np.ones((count, self.length), np.float32))
