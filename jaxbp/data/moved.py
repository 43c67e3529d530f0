"""Random shifts and rotations of training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxbp.data.pipeline import DataConfig
from jaxbp.errors import InputError
from jaxbp.typed import Range


@dataclass(frozen=True, kw_only=True)
class Movable(DataConfig):
    """Keys of data sets of images: random moves of the training images, drawn anew in every step.

    Args:
        shift: largest shift along each axis, in whole pixels
        rotation: largest rotation either way, in degrees
    """

    shift: Annotated[int, Range(0)] = 0
    rotation: Annotated[float, Range(0, 180)] = 0.0

    def augment(self, key: jax.Array, x: jax.Array) -> jax.Array:
        if not (self.shift or self.rotation):
            return x
        if x.ndim != 4:
            raise InputError(f"shift and rotation need images [N, H, W, C], got shape {x.shape}: set data.image=True")
        return moved(key, x, self.shift, self.rotation)


def moved(key: jax.Array, x: jax.Array, shift: int, rotation: float) -> jax.Array:
    """x [N, H, W, C] with each image turned about its middle by up to `rotation` degrees, then shifted by up to `shift`
    whole pixels along each axis. Zeros come in at the edges, and interpolation is linear. A pure function."""
    by_angle, by_shift = jax.random.split(key)
    angle = jnp.deg2rad(jax.random.uniform(by_angle, (len(x),), x.dtype, -rotation, rotation))
    offset = jax.random.randint(by_shift, (len(x), 2), -shift, shift + 1).astype(x.dtype)
    middle = (jnp.array(x.shape[1:3], x.dtype) - 1) / 2
    places = jnp.stack(jnp.meshgrid(*map(jnp.arange, x.shape[1:3]), indexing="ij"), -1) - middle  # [H, W, 2]

    def move(image: jax.Array, angle: jax.Array, offset: jax.Array) -> jax.Array:
        turn = jnp.array([[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]])
        row, column = jnp.einsum("ab,hwb->ahw", turn, places - offset) + middle[:, None, None]
        channel = lambda plane: map_coordinates(plane, [row, column], order=1)
        return jax.vmap(channel, -1, -1)(image)

    return jax.vmap(move)(x, angle, offset)
