"""Tones in noise: the smallest sounds that a net can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.typed import Count, Range, Seed


@dataclass(frozen=True)
class Tones(DataConfig):
    """x [N, length, 1], a sine of amplitude 1 and random phase in noise; y [N], which of the tones it is.

    Tone k of K has (k + 1) / (2 K + 2) cycles a sample: all lie between 0 and 1/2, the highest that samples show.

    Args:
        tones: number of classes
        length: samples in an example
        noise: standard deviation of the Gaussian noise
        examples: number of training examples
        test_examples: number of test examples
        seed: seed of tones, phases and noise
    """

    tones: Annotated[int, Range(2)] = 4
    length: Annotated[int, Range(2)] = 64
    noise: Annotated[float, Range(0, 10)] = 0.5
    examples: Count = 400
    test_examples: Count = 400
    seed: Seed = 0

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        digits = max(3, len(str(2 * self.tones + 2)))  # tell all tones apart
        names = tuple(f"{(k + 1) / (2 * self.tones + 2):.{digits}g}" for k in range(self.tones))
        return Splits(self.draw(rng, self.examples), None, self.draw(rng, self.test_examples), names)

    def draw(self, rng: np.random.Generator, count: int) -> Dataset:
        """`count` examples."""
        y = rng.integers(self.tones, size=count).astype(np.int32)
        cycles = (y[:, None] + 1) / (2 * self.tones + 2) * np.arange(self.length) + rng.random((count, 1))
        x = np.sin(2 * np.pi * cycles) + self.noise * rng.normal(size=cycles.shape)
        return Dataset(x[..., None].astype(np.float32), y)
