"""The embedded Reber grammar (Hochreiter & Schmidhuber 1997, section 5.1): its last choice depends on its first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.typed import Count, Seed

SYMBOLS = "BTPSXVE"
GRAMMAR = [  # state: {symbol: the next state}; Reber 1967, as drawn by Cleeremans et al. 1989
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
    {},
]


@dataclass(frozen=True)
class Reber(DataConfig):
    """x [N, T, 7] one-hot symbols of a string, y [N, T] int32 the symbol after each; strings are padded to the longest.

    In the test part only those steps count that allow a single symbol. An accuracy of 1 thus means that the grammar is
    learned, and with it that the symbol before the last repeats the second symbol, T or P.

    Args:
        embedded: whether a string is B, T or P, a Reber string, the same T or P, E; else a Reber string by itself
        examples: number of training examples
        test_examples: number of test examples
        seed: seed of the strings
    """

    embedded: bool = True
    examples: Count = 1_000
    test_examples: Count = 500
    seed: Seed = 0

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        words = [word(rng, self.embedded) for _ in range(self.examples + self.test_examples)]
        longest = max(map(len, words)) - 1
        train = encoded(words[: self.examples], longest, decided=False)
        test = encoded(words[self.examples :], longest, decided=True)
        return Splits(train, None, test, tuple(SYMBOLS))


def word(rng: np.random.Generator, embedded: bool) -> str:
    """A string of the grammar, in which both symbols of a choice are equally likely."""
    state = 0
    symbols: list[str] = []
    while choices := sorted(GRAMMAR[state]):
        symbols.append(choices[rng.integers(len(choices))])
        state = GRAMMAR[state][symbols[-1]]
    inner = "".join(symbols)
    frame = "TP"[rng.integers(2)]
    return f"B{frame}{inner}{frame}E" if embedded else inner


def choices_after(symbols: str) -> list[int]:
    """How many symbols may follow each symbol of a Reber string but the last."""
    state = 0
    counts = []
    for symbol in symbols[:-1]:
        state = GRAMMAR[state][symbol]
        counts.append(len(GRAMMAR[state]))
    return counts


def encoded(words: list[str], longest: int, decided: bool) -> Dataset:
    """The strings, padded to `longest` steps. Their own steps count, or where `decided` only those with one choice."""
    x = np.zeros((len(words), longest, len(SYMBOLS)), np.float32)
    y = np.zeros(x.shape[:2], np.int32)
    mask = np.zeros(x.shape[:2], np.float32)
    for row, text in enumerate(words):
        numbers = [SYMBOLS.index(symbol) for symbol in text]
        steps = len(text) - 1
        x[row, np.arange(steps), numbers[:-1]] = 1
        y[row, :steps] = numbers[1:]
        choices = [2, 1, *choices_after(text[2:-2]), 1, 1] if text[2] == "B" else choices_after(text)
        mask[row, :steps] = [count == 1 for count in choices] if decided else 1
    return Dataset(x, y, mask)
