"""Xor over time (Elman 1990, Finding structure in time, Cognitive Science 14): every third bit follows from two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.typed import Count, Range, Seed


@dataclass(frozen=True)
class TemporalXor(DataConfig):
    """x [N, length, 1], bits in a row: two at random, their xor, and so on; y [N, length, 1], the bits that follow.

    Only the third bits can be predicted, at the steps 1, 4, 7 ... from 0, and in the test part only those steps count.
    At the others no output has a mean squared error below 1/4, that of always saying 1/2.

    Args:
        length: steps in an example
        examples: number of training examples
        test_examples: number of test examples
        seed: seed of the bits
    """

    length: Annotated[int, Range(3)] = 60
    examples: Count = 50
    test_examples: Count = 200
    seed: Seed = 0

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        return Splits(self.draw(rng, self.examples, False), None, self.draw(rng, self.test_examples, True), None)

    def draw(self, rng: np.random.Generator, count: int, decided: bool) -> Dataset:
        """`count` examples. All steps count, or where `decided` those before a third bit."""
        pairs = rng.integers(2, size=(count, self.length // 3 + 1, 2))
        bits = np.concatenate([pairs, pairs.sum(-1, keepdims=True) % 2], -1).reshape(count, -1, 1).astype(np.float32)
        counts = np.arange(self.length) % 3 == 1 if decided else np.ones(self.length)
        mask = np.tile(counts.astype(np.float32), (count, 1))
        return Dataset(bits[:, : self.length], bits[:, 1 : self.length + 1], mask)
