"""How rows reach the compiled program: all at once where they fit on the device, else those of one call at a time.

Of rows on the device the orders of some epochs are made at a time. Of others a batch is a pure function of the seed and
its step, so threads make the batches of the next call while the program runs the last one, in any order. Reading takes
no time of its own as long as it is the faster of the two.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.data import Dataset, epoch_order
from jaxbp.data.stream import Stream
from jaxbp.machine import threads
from jaxbp.training.step import Feed

MOST_THREADS = 8
AHEAD = 3  # calls whose batches are in memory at most: one computed, one copied, one read
AT_ONCE = 2**22  # places of an order that are made at once, a tenth of a second's work
EPOCH = 1000  # places that can be made in the time that an epoch takes beside its own


def make_feeds(
    part: Dataset, seed: int, shuffle: bool, batch_size: int, epochs: int | None = None
) -> Callable[[int, int], EpochFeed | StreamFeed]:
    """(first, last) -> the steps of the epochs from `first` to before `last`; an array goes to the device once.

    epochs: of the run, up to which batches may be read ahead; None: up to `last`.
    """
    part = on_device(part)
    if isinstance(part, Stream):
        batches = partial(StreamFeed, part, seed, shuffle, batch_size)
        if part.fits:
            return partial(EpochFeed, lambda first, last: batches(first, last).whole(), len(part), batch_size)
        return partial(batches, ahead=Ahead(epochs))
    counting: Any = part.mask

    def orders(first: int, last: int) -> Feed:
        pairs = [epoch_order(seed, epoch, len(part), batch_size, shuffle) for epoch in range(first, last)]
        rows, masks = zip(*pairs, strict=True)
        return Feed(part.x, part.y, jnp.asarray(np.concatenate(rows)), jnp.asarray(np.concatenate(masks)), counting)

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
        return (self.last - self.first) * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return -(-self.examples // self.batch_size)

    @property
    def late(self) -> bool:
        """Whether the last call had to wait for its rows: never."""
        return False

    def call(self, first: int, count: int) -> tuple[Feed, jax.Array]:
        """(a feed that holds `count` steps from step `first` on, or those that are left; the index of that step in it).

        For one `count` the arrays have the same shapes at every call.
        """
        end = min(first + count, self.steps)
        if self.present is None or not self.begin <= first <= end <= self.begin + self.present.steps:
            epoch = first // self.steps_per_epoch
            number = epochs_at_once(self.examples, self.batch_size, count, self.last - self.first)
            epoch = min(epoch, self.last - self.first - number)
            self.present = self.orders(self.first + epoch, self.first + epoch + number)
            self.begin = epoch * self.steps_per_epoch
        return self.present, jnp.int32(first - self.begin)

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`: {"x", "y", "mask"}."""
        feed, first = self.call(int(index), 1)
        return feed.batch(first)


def on_device(part: Dataset) -> Dataset:
    """The part with its arrays on the device; as it is where they are there already, or do not fit."""
    put: Callable[[Any], Any] = jnp.asarray
    if not isinstance(part, Stream):
        return Dataset(put(part.x), put(part.y), None if part.mask is None else put(part.mask))
    if not part.fits or isinstance(part.x, jax.Array):
        return part
    x, y = part.read(np.arange(len(part.x)))
    return Stream(put(x), put(y), epoch=part.epoch, steps=part.steps, resident=part.resident)


def waits_for_data(feed: Any, sums: Any) -> bool:
    """Whether the program had ended its last call before the rows of the next were there. sums: of the last call; None:
    there was none."""
    return feed.late and sums is not None and sums[0].is_ready()


class Ahead:
    """Batches that threads make before they are asked for.

    epochs: of the run. waited: whether the last one that was asked for was not there yet.
    """

    def __init__(self, epochs: int | None = None) -> None:
        self.epochs = epochs
        self.waited = False
        self.pool = ThreadPoolExecutor(min(MOST_THREADS, threads()), thread_name_prefix="batches")
        self.batches: dict[int, Future[Dataset]] = {}
        weakref.finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)  # what nobody waits for

    def take(self, make: Callable[[int], Dataset], steps: range, next_steps: range) -> list[Dataset]:
        """The batches make(step) of these steps of the run; those of `next_steps` are begun."""
        for step in [step for step in self.batches if step not in steps and step not in next_steps]:
            self.batches.pop(step).cancel()
        for step in (*steps, *next_steps):
            if step not in self.batches:
                self.batches[step] = self.pool.submit(make, step)
        self.waited = not all(self.batches[step].done() for step in steps)
        return [self.batches.pop(step).result() for step in steps]


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
    ahead: Ahead | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return -(-len(self.part) // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return (self.last - self.first) * self.steps_per_epoch

    @property
    def late(self) -> bool:
        """Whether a batch of the last call had to be waited for."""
        return self.ahead is not None and self.ahead.waited

    def rows(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers [..., N] int64, whether each counts) of these steps of the run [...]."""
        epoch, step = np.divmod(steps[..., None], self.steps_per_epoch)
        inside = step * self.batch_size + np.arange(self.batch_size)  # places in the epoch
        counts = inside < len(self.part)
        places = epoch * len(self.part) + np.where(counts, inside, 0)
        return self.part.rows(places, self.seed, self.shuffle), counts

    def whole(self) -> Feed:
        """All steps at once, of a part on the device."""
        rows, counts = self.order(0, self.steps)
        counting = jnp.ones(self.part.y.shape, jnp.float32) if self.part.steps else None
        return Feed(self.part.x, self.part.y, jnp.asarray(rows, jnp.int32), jnp.asarray(counts), counting)

    def order(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers [count, N], 1 where a row counts and 0 where it pads [count, N]) of the steps from `first` on.

        No row of steps after the last counts.
        """
        steps = first + np.arange(count)
        rows, counts = self.rows(self.first * self.steps_per_epoch + np.minimum(steps, self.steps - 1))
        return rows, (counts & (steps < self.steps)[:, None]).astype(np.float32)

    def call(self, first: int, count: int) -> tuple[Feed, jax.Array]:
        """(a feed that holds `count` steps from step `first` on, the index of that step in it).

        Steps after the last are there too, empty, so that the last call's arrays have the shapes of the others.
        """
        start = self.first * self.steps_per_epoch
        steps = range(start + first, start + min(first + count, self.steps))
        ahead = self.ahead or Ahead()
        end = start + self.steps if ahead.epochs is None else ahead.epochs * self.steps_per_epoch
        make = partial(batch_of, self)
        batches = ahead.take(make, steps, range(steps.stop, max(steps.stop, min(steps.stop + count, end))))
        mask = self.order(first, count)[1]
        x = joined([batch.x for batch in batches], count)
        counting = None if batches[0].mask is None else joined([batch.counting() for batch in batches], count)
        feed = Feed(
            x,
            joined([batch.y for batch in batches], count),
            jnp.arange(mask.size, dtype=jnp.int32).reshape(mask.shape),
            jnp.asarray(mask),
            counting,
        )
        return feed, jnp.int32(0)

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`: {"x", "y", "mask"}."""
        feed, first = self.call(int(index), 1)
        return feed.batch(first)


def batch_of(feed: StreamFeed, step: int) -> Dataset:
    """The rows of one step of the run."""
    return feed.part.take(feed.rows(np.array(step))[0])


def joined(parts: list[np.ndarray], count: int) -> jax.Array:
    """Equal parts [N, ...] one after another, with zeros in the place of missing ones up to `count`."""
    rows = len(parts[0])
    whole = np.zeros((count * rows, *parts[0].shape[1:]), parts[0].dtype)
    for place, part in enumerate(parts):
        whole[place * rows : (place + 1) * rows] = part
    return jnp.asarray(whole)


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
