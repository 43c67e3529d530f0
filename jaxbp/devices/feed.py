"""How rows reach a mesh: every device is given its own rows of the coming steps; no process reads those of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxbp.core import PyTree, register
from jaxbp.data import Dataset, epoch_order
from jaxbp.data.stream import Stream
from jaxbp.devices.placement import STEPS, Placement
from jaxbp.training.feeds import StreamFeed


@partial(register, data_fields=["x", "y", "mask", "examples"], meta_fields=[])
@dataclass(frozen=True)
class Rows:
    """The rows of some steps, on the devices that compute them."""

    x: PyTree  # [steps, N, ...]
    y: PyTree
    mask: jax.Array  # [steps, N] or [steps, N, T] float32
    examples: jax.Array  # [steps] float32, the sum of each step's mask: no device need ask the others for it

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`: {"x", "y", "mask", "examples"}."""
        take = lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False)
        return {"x": take(self.x), "y": take(self.y), "mask": take(self.mask), "examples": take(self.examples)}


@dataclass(frozen=True)
class MeshFeed:
    """The steps of some epochs, with what the loop asks of a Feed.

    order(first, count) -> (row numbers [count, N], 1 where a row counts and 0 where it pads [count, N]).
    """

    part: Dataset
    placement: Placement
    steps: int
    order: Callable[[int, int], tuple[np.ndarray, np.ndarray]]

    @property
    def late(self) -> bool:
        """False: rows are read when they are called for, and the bar does not tell how long that takes."""
        return False

    def call(self, first: int, count: int) -> tuple[Rows, np.int32]:
        """(`count` steps from step `first` on, the index of that step in them). Steps after the last are masked."""
        rows, counts = map(self.placement.by_device, self.order(first, count))
        sharding = NamedSharding(self.placement.mesh, STEPS)
        pieces = []
        for device, index in sharding.addressable_devices_indices_map(rows.shape).items():
            own = rows[index]
            part = self.part.take(own.ravel())
            by_step = lambda a, own=own: a.reshape(*own.shape, *a.shape[1:])
            mask = by_step(part.counting())
            mask = mask * counts[index].reshape(own.shape + (1,) * (mask.ndim - 2))
            pieces.append(jax.device_put((by_step(part.x), by_step(part.y), mask), device))
        whole = lambda *a: jax.make_array_from_single_device_arrays((*rows.shape, *a[0].shape[2:]), sharding, a)
        x, y, mask = jax.tree.map(whole, *pieces)
        examples = self.placement.put(self.examples(rows, counts), self.placement.everywhere)
        return Rows(x, y, mask, examples), np.int32(0)

    def examples(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """[steps]: what counts in each step, on all devices together."""
        if isinstance(self.part, Stream):  # every time step counts
            return counts.sum(1, dtype=np.float32) * np.float32(self.part.counting()[0].size)
        counting = self.part.counting()
        return (counts * counting.reshape(len(counting), -1).sum(1)[rows]).sum(1, dtype=np.float32)

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`, whole and on one device: {"x", "y", "mask"}."""
        rows, counts = self.order(int(index), 1)
        part = self.part.take(rows[0])
        mask = part.counting()
        mask = mask * counts[0].reshape(-1, *(1,) * (mask.ndim - 1))
        return jax.tree.map(jnp.asarray, {"x": part.x, "y": part.y, "mask": mask})


def make_mesh_feeds(
    part: Dataset, seed: int, shuffle: bool, batch_size: int, placement: Placement
) -> Callable[[int, int], MeshFeed]:
    """(first, last) -> the steps of the epochs from `first` to before `last`."""

    def feed(first: int, last: int) -> MeshFeed:
        if isinstance(part, Stream):
            stream = StreamFeed(part, seed, shuffle, batch_size, first, last)
            return MeshFeed(part, placement, stream.steps, stream.order)
        steps = -(-len(part) // batch_size)
        epoch = lru_cache(2)(lambda number: epoch_order(seed, number, len(part), batch_size, shuffle))

        def order(start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
            rows = np.zeros((count, batch_size), np.int32)
            counts = np.zeros((count, batch_size), np.float32)
            for i in range(min(count, (last - first) * steps - start)):
                number, step = divmod(start + i, steps)
                rows[i], counts[i] = (array[step] for array in epoch(first + number))
            return rows, counts

        return MeshFeed(part, placement, (last - first) * steps, order)

    return feed
