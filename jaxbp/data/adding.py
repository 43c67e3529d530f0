"""The adding problem (Hochreiter & Schmidhuber 1997, section 5.4): two numbers to remember among many, far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.typed import Count, Range, Seed


@dataclass(frozen=True)
class Adding(DataConfig):
    """x [N, length, 2]: numbers uniform in [0, 1], and a mark at one step of each half; y [N, 1]: the sum of the two
    marked numbers. A model that always says 1 has a mean squared error of 1/6.

    Args:
        length: steps in an example
        examples: number of training examples
        test_examples: number of test examples
        seed: seed of the numbers
    """

    length: Annotated[int, Range(2)] = 100
    examples: Count = 20_000
    test_examples: Count = 1_000
    seed: Seed = 0

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        return Splits(self.draw(rng, self.examples), None, self.draw(rng, self.test_examples), None)

    def draw(self, rng: np.random.Generator, count: int) -> Dataset:
        """`count` examples."""
        rows = np.arange(count)
        half = self.length // 2
        numbers = rng.uniform(size=(count, self.length))
        marks = np.zeros((count, self.length))
        marks[rows, rng.integers(half, size=count)] = 1
        marks[rows, rng.integers(half, self.length, size=count)] = 1
        y = np.sum(numbers * marks, axis=1, keepdims=True)
        return Dataset(np.stack([numbers, marks], -1).astype(np.float32), y.astype(np.float32))
