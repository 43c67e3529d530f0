"""The capital letters and the digits as 7 x 5 pixels, drawn below: the classic test of recognition under noise."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.data.prepare import as_one_hot
from jaxbp.typed import Count, Range, Seed

CLASSES = tuple(string.ascii_uppercase + string.digits)
DRAWN = """
.###. ####. .###. ####. ##### ##### .###. #...# .###.
#...# #...# #...# #...# #.... #.... #...# #...# ..#..
#...# #...# #.... #...# #.... #.... #.... #...# ..#..
##### ####. #.... #...# ####. ####. #.### ##### ..#..
#...# #...# #.... #...# #.... #.... #...# #...# ..#..
#...# #...# #...# #...# #.... #.... #...# #...# ..#..
#...# ####. .###. ####. ##### #.... .###. #...# .###.

..### #...# #.... #...# #...# .###. ####. .###. ####.
...#. #..#. #.... ##.## #...# #...# #...# #...# #...#
...#. #.#.. #.... #.#.# ##..# #...# #...# #...# #...#
...#. ##... #.... #.#.# #.#.# #...# ####. #...# ####.
...#. #.#.. #.... #...# #..## #...# #.... #.#.# #.#..
#..#. #..#. #.... #...# #...# #...# #.... #..#. #..#.
.##.. #...# ##### #...# #...# .###. #.... .##.# #...#

.#### ##### #...# #...# #...# #...# #...# ##### .###.
#.... ..#.. #...# #...# #...# #...# #...# ....# #...#
#.... ..#.. #...# #...# #...# .#.#. .#.#. ...#. #..##
.###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#.. #.#.#
....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#... ##..#
....# ..#.. #...# .#.#. #.#.# #...# ..#.. #.... #...#
####. ..#.. .###. ..#.. .#.#. #...# ..#.. ##### .###.

..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
.##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""


@dataclass(frozen=True)
class Characters(DataConfig):
    """The training part has each of the 36 characters once, x [36, 35] of 0 and 1; the test part has noisy copies.

    Args:
        noise: fraction of the 35 pixels that is flipped in every test example
        copies: test examples of each character
        one_hot: whether labels are float32 rows [N, 36] instead of int32 numbers [N]
        seed: seed of the noise
    """

    noise: Annotated[float, Range(0, 1)] = 0.1
    copies: Count = 10
    one_hot: bool = False
    seed: Seed = 0

    def load(self) -> Splits:
        train = Dataset(drawn_pixels(), np.arange(len(CLASSES), dtype=np.int32))
        test = train.take(np.repeat(train.y, self.copies))
        pixels = test.x.shape[1]
        rng = np.random.default_rng(self.seed)
        flipped = rng.permuted(np.tile(np.arange(pixels), (len(test), 1)), axis=1) < round(self.noise * pixels)
        splits = Splits(train, None, Dataset(np.where(flipped, 1 - test.x, test.x), test.y), CLASSES)
        return splits.map(as_one_hot(CLASSES)) if self.one_hot else splits


def drawn_pixels() -> np.ndarray:
    """The drawn characters in the order of CLASSES, float32 [36, 35], row by row: 1 where there is a #."""
    bands = [band.split("\n") for band in DRAWN.strip().split("\n\n")]
    characters = ["".join(rows) for band in bands for rows in zip(*(line.split() for line in band), strict=True)]
    return np.array([[pixel == "#" for pixel in character] for character in characters], np.float32)
