"""Convolution as arrays: the three contractions that forward and backward are made of. Channels last, any rank.

Along each spatial axis the kernel's entry t meets output p at the input position

    j = stride p + dilation t - low            (low, high: the padding; x is zero outside)

so with x_t the padded input read at the positions of tap t, and i, o the channels of one group,

    correlate             y[n, p, o]  = sum_{t, i} x_t[n, p, i] w[o, t, i]
    correlate_transposed  dx[n, j, i] = sum_{t, o} w[o, t, i] dy[n, p, o]    over the p, t that meet at j
    correlate_weights     dw[o, t, i] = sum_{n, p} x_t[n, p, i] dy[n, p, o]

Each is linear in both arguments, and the other two are its transposes: they are all that Conv and ConvTranspose need.
Weights are stored output-first, [O, *kernel, I / groups], as in Dense: the matrix [O, K I], without a transpose.

The second is again a convolution: of dy spread by zeros (stride - 1 between neighbours) with the flipped kernel, since
with u = kernel - 1 - t the spread position is stride p = j + dilation u - (dilation (kernel - 1) - low). The third is a
convolution too: channels take the place of the batch, dy is the kernel, and stride and dilation change places.

On CPU, XLA has a fast convolution for inputs [N, *space, I], kernels [*kernel, I, O] and one group. In a loop every
other layout runs 10 to 50 times slower, and it is such layouts that automatic differentiation leaves there. So here, in
at most two forms each,

    one group    a matrix product over patches where no two windows overlap (1x1; 2x2 with stride 2), where there are
                 more weights than activations, and on large batches, there a few images at a time so that the patches
                 stay in the processor's cache; otherwise XLA's convolution with its arguments copied into that layout,
                 which is fast for one or two spatial axes: of three, the first is summed over by hand
                 (dx with strides: so for the positions of each remainder, which are then interleaved)
    more groups  sums of shifted products where a group has one channel (depthwise), otherwise one group after the other

Other platforms get one convolution each, in the layouts in which their libraries recognise the three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from math import inf, prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.core import wide
from jaxbp.factors import BLOCK, total
from jaxbp.ops.products import rounded, wide_dtype
from jaxbp.ops.windows import Window, interleaved, pad, padded, patches, read, taps, unpatched

WIDE = 64  # output channels that share the cost of making a patch
TAPS = 9  # entries of a kernel: with fewer XLA's copy costs less


def correlate(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """x [N, *space, I], w [O, *kernel, I / groups] -> y [N, *out, O]."""

    def cpu(x: jax.Array, w: jax.Array) -> jax.Array:
        if window.groups > 1 and w.shape[-1] == 1:
            return shifted_products(jnp.repeat(padded(x, window), len(w) // window.groups, -1), w, window)
        if window.groups == 1:
            return correlate_group(x, w, window)

        def group(g: jax.Array) -> jax.Array:
            return correlate_group(channels_of(g, x, window), outputs_of(g, w, window), window)

        return join_channels(lax.map(group, jnp.arange(window.groups)))

    def default(x: jax.Array, w: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            x,
            w,
            window.strides,
            window.padding,
            None,
            window.dilation,
            output_first(x),
            window.groups,
            preferred_element_type=wide_dtype(x),
        )
        return y.astype(x.dtype)

    return lax.platform_dependent(x, w, cpu=cpu, default=default)


def correlate_transposed(dy: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """dy [N, *out, O], w [O, *kernel, I / groups] -> dx [N, *space, I]."""

    def cpu(dy: jax.Array, w: jax.Array) -> jax.Array:
        if window.groups > 1 and w.shape[-1] == 1:
            return by_remainders(transposed_products, dy, w, window)
        if window.groups == 1:
            return correlate_transposed_group(dy, w, window)

        def group(g: jax.Array) -> jax.Array:
            alone = replace(window, groups=1)
            return correlate_transposed_group(channels_of(g, dy, window), outputs_of(g, w, window), alone)

        return join_channels(lax.map(group, jnp.arange(window.groups)))

    def default(dy: jax.Array, w: jax.Array) -> jax.Array:
        dx = lax.conv_general_dilated(
            dy,
            flipped(exchanged(w, window.groups)),
            window.once,
            window.margins,
            window.strides,
            window.dilation,
            output_first(dy),
            window.groups,
            preferred_element_type=wide_dtype(dy),
        )
        return dx.astype(dy.dtype)

    return lax.platform_dependent(dy, w, cpu=cpu, default=default)


def correlate_weights(x: jax.Array, dy: jax.Array, window: Window, dtype: Any) -> jax.Array:
    """x [N, *space, I], dy [N, *out, O] -> dw [O, *kernel, I / groups], summed in dtype."""

    def cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
        if window.groups > 1 and x.shape[-1] == window.groups:
            return sums_by_tap(jnp.repeat(padded(x, window), dy.shape[-1] // window.groups, -1), dy, window, dtype)
        if window.groups == 1:
            return correlate_weights_group(x, dy, window, dtype)

        def group(g: jax.Array) -> jax.Array:
            return correlate_weights_group(channels_of(g, x, window), channels_of(g, dy, window), window, dtype)

        return flat(lax.map(group, jnp.arange(window.groups)), 2)

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        swapped = (x.ndim - 1, 0, *range(1, x.ndim - 1))  # channels in the batch's place, the batch in the channels'
        return lax.conv_general_dilated(
            x,
            dy,
            window.dilation,
            window.edges,
            None,
            window.strides,
            lax.ConvDimensionNumbers(swapped, swapped, swapped),
            batch_group_count=window.groups,
            preferred_element_type=dtype,
        )

    return lax.platform_dependent(x, dy, cpu=cpu, default=default)


# --- one group on CPU ------------------------------------------------------------------------------------------------


def correlate_group(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """`correlate` where every input channel meets every output channel."""
    if count := at_once(len(x), w.shape, window, WIDE):
        by_patches = lambda x: rounded("...k,ok->...o", patches(x, window), matrix(w))
        return flat(lax.map(by_patches, blocks(x, count)), 2)
    if len(window.kernel) == 3:
        depth = window.axes(0, 1)
        plane = window.axes(1, 3)
        x = padded(x, depth)
        by_plane = lambda t: correlate_group(flat(read(x, (t,), depth), 2), w[:, t], plane)
        return total(by_plane, jnp.arange(window.kernel[0])).reshape(len(x), *window.out, -1)
    return convolution(x, jnp.moveaxis(w, 0, -1), window.strides, window.padding, window.dilation)


def correlate_transposed_group(dy: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """`correlate_transposed` where every input channel meets every output channel."""
    strided = window.strides != window.once
    if count := at_once(len(dy), w.shape, window, inf if strided else WIDE):
        by_patches = lambda dy: unpatched(rounded("...o,ok->...k", dy, matrix(w)), window)
        return flat(lax.map(by_patches, blocks(dy, count)), 2)
    if strided:
        return by_remainders(correlate_transposed_group, dy, w, window)
    if len(window.kernel) == 3:
        depth = window.axes(0, 1)
        plane = window.axes(1, 3)
        dy = pad(dy, depth.margins, depth.once)
        back = replace(depth, space=dy.shape[1:2], padding=depth.bare)
        last = window.kernel[0] - 1
        by_plane = lambda t: correlate_transposed_group(flat(read(dy, (t,), back), 2), w[:, last - t], plane)
        return total(by_plane, jnp.arange(window.kernel[0])).reshape(len(dy), *window.space, -1)
    kernel = flipped(jnp.moveaxis(w, 0, -2), first=0)
    return convolution(dy, kernel, window.once, window.margins, window.dilation)


def correlate_weights_group(x: jax.Array, dy: jax.Array, window: Window, dtype: Any) -> jax.Array:
    """`correlate_weights` where every input channel meets every output channel."""
    shape = (dy.shape[-1], *window.kernel, x.shape[-1])
    if count := at_once(len(x), shape, window):

        def by_patches(x: jax.Array, dy: jax.Array) -> jax.Array:
            p = flat(patches(x, window), x.ndim - 1)  # [S, K I]
            return jnp.einsum("so,sk->ok", flat(dy, dy.ndim - 1), p, preferred_element_type=dtype)

        return total(by_patches, blocks(x, count), blocks(dy, count)).reshape(shape)
    if len(window.kernel) == 3:
        depth = window.axes(0, 1)
        plane = window.axes(1, 3)
        x = padded(x, depth)
        dy = flat(dy, 2)
        by_plane = lambda t: correlate_weights_group(flat(read(x, (t,), depth), 2), dy, plane, dtype)
        return jnp.moveaxis(lax.map(by_plane, jnp.arange(window.kernel[0])), 0, 1)
    x = jnp.moveaxis(x, (0, -1), (-1, 0))  # [I, *space, N]
    kernel = jnp.moveaxis(dy, 0, -2)  # [*out, N, O]
    dw = convolution(x, kernel, window.dilation, window.edges, window.strides, dtype=dtype)
    return jnp.swapaxes(dw, 0, -1)


# --- their forms -----------------------------------------------------------------------------------------------------


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    dtype: Any = None,
) -> jax.Array:
    """XLA's, in the layout that is fast on CPU: x [N, *space, I], kernel [*kernel, I, O] -> y [N, *out, O]."""
    ends = (0, x.ndim - 1, *range(1, x.ndim - 1))
    layout = lax.ConvDimensionNumbers(ends, (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)), ends)
    y = lax.conv_general_dilated(
        x, kernel, strides, padding, None, dilation, layout, preferred_element_type=dtype or wide_dtype(x)
    )
    return y.astype(dtype or x.dtype)


def output_first(x: jax.Array) -> lax.ConvDimensionNumbers:
    """The layout [N, *space, I], [O, *kernel, I] -> [N, *out, O]."""
    return lax.ConvDimensionNumbers(*((0, x.ndim - 1, *range(1, x.ndim - 1)),) * 3)


def channels_of(group: jax.Array, a: jax.Array, window: Window) -> jax.Array:
    """[..., C] -> [..., C / groups]: the channels of one group. A slice in the loop saves a copy of all groups."""
    size = a.shape[-1] // window.groups
    return lax.dynamic_slice_in_dim(a, group * size, size, -1)


def outputs_of(group: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """[O, ...] -> [O / groups, ...]: the weights of the group's outputs."""
    size = len(w) // window.groups
    return lax.dynamic_slice_in_dim(w, group * size, size, 0)


def join_channels(parts: jax.Array) -> jax.Array:
    """[G, ..., C / G] -> [..., C]: the groups' channels side by side."""
    y = jnp.moveaxis(parts, 0, -2)
    return y.reshape(*y.shape[:-2], -1)


def at_once(count: int, w: tuple[int, ...], window: Window, wide: float = 1) -> int:
    """How many images to make patches of at once, a divisor of `count`; 0 where patches are not the faster form.

    w: the shape [O, *kernel, I] of the weights. wide: how many output channels make patches worth their cost.
    """
    if window.disjoint:
        return count
    patch = prod(window.out) * prod(w[1:])  # entries of one image's patches
    activations = prod(window.space) * w[-1] + prod(window.out) * w[0]  # and of its x and y
    large = count * activations > BLOCK and w[0] >= wide and prod(w[1:-1]) >= TAPS
    if not large and prod(w) <= count * activations:
        return 0
    return max((n for n in range(1, count + 1) if count % n == 0 and n * patch <= BLOCK), default=0)


def blocks(a: jax.Array, count: int) -> jax.Array:
    """[N, ...] -> [N / count, count, ...]."""
    return a.reshape(-1, count, *a.shape[1:])


def by_remainders(form: Callable[..., jax.Array], dy: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """dx from a form of stride one: the positions of each remainder by the taps that meet them, without any zeros."""

    def entry(*remainders: int) -> jax.Array:
        chosen, part = window.met_at(remainders)
        if 0 in part.kernel:
            return jnp.zeros((len(dy), *part.space, window.groups * w.shape[-1]), dy.dtype)
        return form(dy, w[(slice(None), *chosen)], part)

    return interleaved(entry, window.strides, window.space)


def transposed_products(dy: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """`correlate_transposed` of stride one where every group has one input channel."""
    spread = pad(dy, window.margins, window.once)
    back = replace(window, space=spread.shape[1:-1], padding=window.bare)
    dx = shifted_products(spread, flipped(w), back)
    return jnp.sum(dx.reshape(*dx.shape[:-1], window.groups, -1), -1)


def shifted_products(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """y[n, p, c] = sum_t x_t[n, p, c] w[c, t] for x already padded: one product of arrays for each tap."""
    w = w.reshape(len(w), -1)
    products = (
        wide(read(x, tap, window) * jnp.broadcast_to(w[:, t], (len(x), *window.out, len(w))))
        for t, tap in enumerate(taps(window))
    )
    return reduce(jnp.add, products).astype(x.dtype)


def sums_by_tap(x: jax.Array, dy: jax.Array, window: Window, dtype: Any) -> jax.Array:
    """dw[c, t] = sum_{n, p} x_t[n, p, c] dy[n, p, c] for x already padded.

    A loop over the taps: without it the products of all taps would exist at once.
    """
    all_but_channels = tuple(range(x.ndim - 1))
    at_tap = lambda tap: jnp.sum(read(x, tap, window) * dy, all_but_channels, dtype)
    dw = lax.map(at_tap, jnp.array(list(taps(window))))  # [K, C]
    return dw.T.reshape(-1, *window.kernel, 1)


def flat(a: jax.Array, axes: int) -> jax.Array:
    """The first `axes` axes as one."""
    return a.reshape(-1, *a.shape[axes:])


def matrix(w: jax.Array) -> jax.Array:
    """[O, K I]."""
    return w.reshape(len(w), -1)


def flipped(w: jax.Array, first: int = 1) -> jax.Array:
    """The kernel with its spatial axes, which start at `first`, in reverse order."""
    return jnp.flip(w, tuple(range(first, first + w.ndim - 2)))


def exchanged(w: jax.Array, groups: int) -> jax.Array:
    """[O, *kernel, I / groups] -> [I, *kernel, O / groups]: inputs and outputs exchanged within each group."""
    parts = w.reshape(groups, -1, *w.shape[1:])
    return jnp.swapaxes(parts, 1, -1).reshape(-1, *w.shape[1:-1], len(w) // groups)
