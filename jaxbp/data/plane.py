"""Two classes of points in the plane that no line separates, or one only just: what a decision boundary is drawn on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from jaxbp.data.pipeline import Dataset
from jaxbp.data.prepare import Examples, Tabular
from jaxbp.typed import Range

Shape = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # (generator, classes [N]) -> points [N, 2]


def moons(rng: np.random.Generator, c: np.ndarray) -> np.ndarray:
    """Two half circles, each with its end within the other."""
    t = np.pi * rng.uniform(size=len(c))
    upper = np.stack([np.cos(t), np.sin(t)], -1)
    return np.where(c[:, None] == 0, upper, np.array([1.0, 0.5]) - upper)


def circles(rng: np.random.Generator, c: np.ndarray) -> np.ndarray:
    """A circle of radius 1, and one of radius 1/2 within it."""
    t = 2 * np.pi * rng.uniform(size=len(c))
    return np.where(c == 0, 1.0, 0.5)[:, None] * np.stack([np.cos(t), np.sin(t)], -1)


def xor(rng: np.random.Generator, c: np.ndarray) -> np.ndarray:
    """The four corners (+-1, +-1): class 0 where both signs are equal."""
    left = rng.choice([-1.0, 1.0], len(c))
    return np.stack([left, np.where(c == 0, left, -left)], -1)


def blobs(rng: np.random.Generator, c: np.ndarray) -> np.ndarray:
    """The points (-1, -1) and (1, 1)."""
    return np.repeat(np.where(c == 0, -1.0, 1.0)[:, None], 2, 1)


SHAPES: dict[str, Shape] = {"moons": moons, "circles": circles, "xor": xor, "blobs": blobs}


@dataclass(frozen=True)
class Plane(Tabular):
    """x [N, 2] around one of the shapes, y [N] classes 0 and 1 in equal numbers.

    Args:
        name: the shape
        examples: number of examples, those of the test part included
        noise: standard deviation of the Gaussian noise on x
    """

    name: Literal["moons", "circles", "xor", "blobs"]
    examples: Annotated[int, Range(4)] = 400
    noise: Annotated[float, Range(0, 10)] = 0.1

    def table(self) -> Examples:
        rng = np.random.default_rng(self.seed)
        classes = np.arange(self.examples, dtype=np.int32) % 2
        points = SHAPES[self.name](rng, classes)
        x = points + self.noise * rng.normal(size=points.shape)
        return Examples(Dataset(x, classes), ("0", "1"))
