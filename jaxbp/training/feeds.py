"""How rows reach the compiled program: all at once where they are in memory, else those of one call at a time.

Of rows in memory the orders of some epochs are made at a time. The program runs while the host reads the rows of the
next call, so reading takes no time of its own as long as it is the faster of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.data import Dataset, epoch_order
from jaxbp.data.stream import Stream
from jaxbp.training.step import Feed

AT_ONCE = 2**22  # places of an order that are made at once, a tenth of a second's work
EPOCH = 1000  # places that can be made in the time that an epoch takes beside its own


def make_feeds(
    part: Dataset, seed: int, shuffle: bool, batch_size: int
) -> Callable[[int, int], EpochFeed | StreamFeed]:
    """(first, last) -> the steps of the epochs from `first` to before `last`; an array goes to the device once."""
    if isinstance(part, Stream):
        return partial(StreamFeed, part, seed, shuffle, batch_size)
    x = jnp.asarray(part.x)
    y = jnp.asarray(part.y)
    counting = None if part.mask is None else jnp.asarray(part.mask)

    def orders(first: int, last: int) -> Feed:
        epochs = [epoch_order(seed, epoch, len(part), batch_size, shuffle) for epoch in range(first, last)]
        orders, masks = zip(*epochs, strict=True)
        return Feed(x, y, jnp.asarray(np.concatenate(orders)), jnp.asarray(np.concatenate(masks)), counting)

    return partial(EpochFeed, orders, len(part), batch_size)


def epochs_at_once(examples: int, batch_size: int, count: int, epochs: int) -> int:
    """How many of `epochs` have their orders made at once, where a call takes `count` steps."""
    steps = -(-examples // batch_size)
    return min(epochs, max(AT_ONCE // (examples + EPOCH), -(-count // steps) + 1))


@dataclass
class EpochFeed:
    """The steps of the epochs from `first` to before `last`, with what the loop asks of a Feed."""

    orders: Callable[[int, int], Feed]  # (first, last) -> the steps of these epochs
    examples: int
    batch_size: int
    first: int
    last: int
    begin: int = 0  # the first step that `present` holds
    present: Feed | None = None

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return (self.last - self.first) * self.steps_in_epoch

    @property
    def steps_in_epoch(self) -> int:
        """Steps of one epoch."""
        return -(-self.examples // self.batch_size)

    def call(self, first: int, count: int) -> tuple[Feed, jax.Array]:
        """(a feed that holds `count` steps from step `first` on, or those that are left; the index of that step in it).

        For one `count` the arrays have the same shapes at every call.
        """
        end = min(first + count, self.steps)
        if self.present is None or not self.begin <= first <= end <= self.begin + self.present.steps:
            epoch = first // self.steps_in_epoch
            number = epochs_at_once(self.examples, self.batch_size, count, self.last - self.first)
            epoch = min(epoch, self.last - self.first - number)
            self.present = self.orders(self.first + epoch, self.first + epoch + number)
            self.begin = epoch * self.steps_in_epoch
        return self.present, jnp.int32(first - self.begin)

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`: {"x", "y", "mask"}."""
        feed, first = self.call(int(index), 1)
        return feed.batch(first)


@dataclass(frozen=True)
class StreamFeed:
    """The steps of the epochs from `first` to before `last`, with what the loop asks of a Feed.

    Every epoch ends with a batch that is padded with masked rows where batch_size does not divide its examples.
    """

    part: Stream
    seed: int
    shuffle: bool
    batch_size: int
    first: int
    last: int

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return (self.last - self.first) * -(-len(self.part) // self.batch_size)

    def order(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers [count, N], 1 where a row counts and 0 where it pads [count, N]) of the steps from `first` on.

        Steps after the last are there too, masked, so that the last call's arrays have the shapes of the others.
        """
        examples = len(self.part)
        steps = first + np.arange(count)[:, None]
        epoch, step = np.divmod(steps, -(-examples // self.batch_size))
        inside = step * self.batch_size + np.arange(self.batch_size)  # [steps, N], places in the epoch
        counts = (inside < examples) & (steps < self.steps)
        places = (self.first + epoch) * examples + np.where(counts, inside, 0)
        rows = self.part.rows(places.ravel(), self.seed, self.shuffle).reshape(places.shape)
        return rows, counts.astype(np.float32)

    def call(self, first: int, count: int) -> tuple[Feed, jax.Array]:
        """(a feed that holds `count` steps from step `first` on, the index of that step in it)."""
        rows, counts = self.order(first, count)
        taken = self.part.take(rows.ravel())
        feed = Feed(
            jnp.asarray(taken.x),
            jnp.asarray(taken.y),
            jnp.arange(rows.size, dtype=jnp.int32).reshape(rows.shape),
            jnp.asarray(counts),
            jnp.asarray(taken.counting()),
        )
        return feed, jnp.int32(0)

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`: {"x", "y", "mask"}."""
        feed, first = self.call(int(index), 1)
        return feed.batch(first)


def calls(
    first: int, steps: int, per_call: int, offset: int, *every: int | None, ends: Iterable[int] = ()
) -> Iterator[tuple[int, int]]:
    """(first step, steps) of each call.

    One ends where the run's step, first + offset, is a multiple of one of `every`, or one of the `ends`.
    """
    while first < steps:
        left = [period - (offset + first) % period for period in every if period]
        left += [end - offset - first for end in ends if end > offset + first]
        count = min(per_call, steps - first, *left)
        yield first, count
        first += count


def rounds(epochs: int, every: int) -> Iterator[tuple[int, int]]:
    """(first, last) epochs between evaluations."""
    for first in range(0, epochs, every):
        yield first, min(first + every, epochs)
