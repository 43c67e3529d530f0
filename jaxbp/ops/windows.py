"""Where kernels meet an input along its spatial axes, and what they read there. Channels last, any rank.

Along each axis the kernel's entry t meets output p at the input position

    j = stride p + dilation t - low            (low, high: the padding; x is zero outside)

`patches` gathers for every output what it reads, and `unpatched` is its transpose: it adds the deltas of all patches
where they came from. `read` gives what all outputs read at one tap. With strides, the input positions
stride q + r of one remainder r are met by some of the taps only, and over q by windows of stride one: `Window.met_at`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Padding = str | tuple[tuple[int, int], ...]  # a name, or (low, high) for each axis


@dataclass(frozen=True)
class Window:
    """Where kernels meet an input of the spatial shape `space`; padding is a pair (low, high) for each axis."""

    space: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def reach(self) -> tuple[int, ...]:
        """The extent of the kernel with its holes."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def out(self) -> tuple[int, ...]:
        """The spatial shape of the output."""
        sizes = zip(self.space, self.padding, self.reach, self.strides, strict=True)
        return tuple((n + low + high - r) // s + 1 for n, (low, high), r, s in sizes)

    @property
    def disjoint(self) -> bool:
        """Whether no input position is read by two outputs."""
        return all(r <= s for r, s in zip(self.reach, self.strides, strict=True))

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The padding as far as it is read; negative at an end that is never read."""
        sizes = zip(self.space, self.padding, self.reach, self.strides, self.out, strict=True)
        return tuple((low, r + s * (o - 1) - n - low) for n, (low, _), r, s, o in sizes)

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Zeros around the spread dy that make its correlation with the flipped kernel as large as `space`."""
        sizes = zip(self.space, self.padding, self.reach, self.strides, self.out, strict=True)
        return tuple((r - 1 - low, n - 1 + low - s * (o - 1)) for n, (low, _), r, s, o in sizes)

    def axes(self, first: int, end: int) -> Window:
        """The window along the spatial axes first, ..., end - 1."""
        part = slice(first, end)
        return Window(
            self.space[part],
            self.kernel[part],
            self.strides[part],
            self.padding[part],
            self.dilation[part],
            self.groups,
        )

    def met_at(self, remainder: tuple[int, ...]) -> tuple[tuple[slice, ...], Window]:
        """The taps that meet input positions strides q + remainder, and where they meet q: a window of stride one.

        With g = gcd(stride, dilation), every (stride / g)th tap does, and they are dilation / g of q apart.
        """
        chosen, axes = [], []
        sizes = zip(
            self.space, self.kernel, self.strides, self.padding, self.dilation, self.out, remainder, strict=True
        )
        for n, k, s, (low, _), d, o, r in sizes:
            first = next((t for t in range(k) if (d * t - low - r) % s == 0), k)
            step, apart = s // gcd(s, d), d // gcd(s, d)
            kernel, cells, start = len(range(first, k, step)), -(-n // s), (d * first - low - r) // s
            chosen.append(slice(first, None, step))
            axes.append((cells, kernel, 1, (-start, start + o + apart * (kernel - 1) - cells), apart))
        return tuple(chosen), Window(*zip(*axes, strict=True), self.groups)

    @property
    def once(self) -> tuple[int, ...]:
        """Strides of one."""
        return (1,) * len(self.space)

    @property
    def bare(self) -> tuple[tuple[int, int], ...]:
        """No padding."""
        return ((0, 0),) * len(self.space)


def patches(x: jax.Array, window: Window) -> jax.Array:
    """x [N, *space, I] -> [N, *out, K I], what each output reads.

    Gathers along one axis at a time: 2 k slices for a k x k kernel instead of k^2.
    """
    p = padded(x, window)
    sizes = zip(window.kernel, window.strides, window.dilation, window.out, strict=True)
    for axis, (k, s, d, o) in enumerate(sizes, 1):
        p = jnp.stack([lax.slice_in_dim(p, d * t, d * t + s * (o - 1) + 1, s, axis) for t in range(k)], -2)
    return p.reshape(len(x), *window.out, -1)


def unpatched(p: jax.Array, window: Window) -> jax.Array:
    """The transpose of `patches`, [N, *out, K I] -> x [N, *space, I]: windows set side by side, or added up."""
    p = p.reshape(len(p), *window.out, *window.kernel, -1)
    x = side_by_side(p, window) if window.disjoint else added(p, window)
    return pad(x, [(-low, -high) for low, high in window.edges], window.once)


def side_by_side(p: jax.Array, window: Window) -> jax.Array:
    """p [N, *out, *kernel, I] -> padded x, for windows that do not overlap."""
    rank = len(window.kernel)
    fill = [(0, s - r, d - 1) for s, r, d in zip(window.strides, window.reach, window.dilation, strict=True)]
    fill = [(0, 0, 0)] * (rank + 1) + fill + [(0, 0, 0)]
    p = lax.pad(p, jnp.zeros((), p.dtype), fill)  # each window as large as the stride
    order = [
        axis for a in range(rank) for axis in (1 + a, 1 + rank + a)
    ]  # an axis of out, the same of kernel, the next
    p = p.transpose(0, *order, 1 + 2 * rank)
    x = p.reshape(len(p), *(o * s for o, s in zip(window.out, window.strides, strict=True)), -1)
    return pad(x, [(0, r - s) for r, s in zip(window.reach, window.strides, strict=True)], window.once)


def added(p: jax.Array, window: Window) -> jax.Array:
    """p [N, *out, *kernel, I] -> padded x: along one axis at a time, the sum of each tap's deltas, spread and moved."""
    rank = len(window.kernel)
    sizes = zip(window.strides, window.dilation, window.reach, strict=True)
    for axis, (s, d, r) in enumerate(sizes):  # the axes before are done
        by_tap = jnp.moveaxis(p, rank + 1, 0)  # the first of the kernel's axes that are left
        margins = [[(0, 0)] * axis + [(d * t, r - 1 - d * t)] for t in range(len(by_tap))]
        strides = [1] * axis + [s]
        p = reduce(jnp.add, [pad(deltas, margin, strides) for deltas, margin in zip(by_tap, margins, strict=True)])
    return p


def interleaved(entry: Callable[..., jax.Array], strides: tuple[int, ...], space: tuple[int, ...]) -> jax.Array:
    """[N, *space, C] whose entry stride q + r of each axis is entry q of entry(*r), [N, *ceil(space / strides), C]."""

    def entries(*remainders: int) -> jax.Array:
        """Those at these remainders of the first axes; each axis after them is two, q and r."""
        axis = len(remainders)
        if axis == len(strides):
            return entry(*remainders)
        return jnp.stack([entries(*remainders, r) for r in range(strides[axis])], axis + 2)

    parts = entries()
    cells = parts.shape[1:-1:2]
    whole = parts.reshape(len(parts), *(q * s for q, s in zip(cells, strides, strict=True)), parts.shape[-1])
    return whole[(slice(None), *map(slice, space))]


def pad(x: jax.Array, margins: Sequence[tuple[int, int]], strides: Sequence[int]) -> jax.Array:
    """x [N, *space, ...] spread to the strides with zeros, and zeros around it; negative margins cut."""
    edges = [(low, high, s - 1) for (low, high), s in zip(margins, strides, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, *((0, 0, 0),) * (x.ndim - 1 - len(edges))])


def padded(x: jax.Array, window: Window) -> jax.Array:
    """x with its padding, as far as it is read."""
    return pad(x, window.edges, window.once)


def taps(window: Window) -> Iterator[tuple[int, ...]]:
    """The kernel's entries in the order of its memory."""
    return itertools.product(*map(range, window.kernel))


def read(x: jax.Array, tap: Any, window: Window) -> jax.Array:
    """x_t [N, *out, ...]: what the outputs read of a padded x at one tap, which may be traced."""
    rest = x.shape[1 + len(window.space) :]
    sizes = [s * (o - 1) + 1 for s, o in zip(window.strides, window.out, strict=True)]
    starts = [0, *(d * tap[a] for a, d in enumerate(window.dilation)), *(0 for _ in rest)]
    x = lax.dynamic_slice(x, starts, (len(x), *sizes, *rest))
    return x[(slice(None), *(slice(None, None, s) for s in window.strides))]


def are_pairs(padding: Any, rank: int) -> bool:
    """Whether `padding` is a pair of non-negative integers for each axis."""
    if not isinstance(padding, tuple | list) or len(padding) != rank:
        return False
    pair = lambda p: isinstance(p, tuple | list) and len(p) == 2 and all(isinstance(n, int) and n >= 0 for n in p)
    return all(map(pair, padding))
