"""The capital letters and the digits as 7 x 5 pixels, drawn below: the classic test of recognition under noise."""
from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np

from jaxbp.data.pipeline import DataConfig, Dataset, Splits
from jaxbp.data.prepare import as_one_hot, check_seed
from jaxbp.errors import InputError

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
    """For training each of the 36 characters once, x [36, 35] of 0 and 1; for the test noisy copies of them."""
    noise: float = 0.1  # part of the 35 pixels flipped in every test example, in [0, 1]
    copies: int = 10  # test examples of each character, at least 1
    one_hot: bool = False  # labels as float32 rows [N, 36] instead of int32 numbers [N]
    seed: int = 0  # of the noise, in 0..4294967295

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if not 0 <= self.noise <= 1:
            raise InputError(f"noise must lie in [0, 1], got {self.noise}")
        if self.copies < 1:
            raise InputError(f"copies must be at least 1, got {self.copies}")

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
