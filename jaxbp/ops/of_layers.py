"""Layers as operations: their weights are arguments. Each runs the forward and the backward of its layer.

The mathematics is at the top of the layer's file: jaxbp.layers.recurrent and cells, convolution, convolution_transpose,
pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import jax

from jaxbp.backprop import as_function
from jaxbp.core import Layer, floating
from jaxbp.errors import InputError
from jaxbp.layers.cells import Cell, GRUCell, LSTMCell
from jaxbp.layers.convolution import Conv
from jaxbp.layers.convolution_transpose import ConvTranspose
from jaxbp.layers.pooling import AveragePool, MaxPool
from jaxbp.layers.recurrent import Recurrent
from jaxbp.ops.windows import Padding

shared = cache(as_function)  # of equal layers one function, so that what JAX has compiled for it is found again
Sizes = tuple[int, ...]


def function(layer: Layer) -> Callable[..., jax.Array]:
    """The function (params, x) -> y of a layer. Its settings may be lists, such as a window that JSON gave.

    It raises InputError for arrays of integers.
    """
    settings = {field.name: as_tuples(getattr(layer, field.name)) for field in fields(layer)}
    run = shared(replace(layer, **settings))
    return lambda params, x: run(*jax.tree.map(floating, (params, x)))


def as_tuples(setting: Any) -> Any:
    """The setting with tuples for its lists, which have no hash."""
    return tuple(map(as_tuples, setting)) if isinstance(setting, list) else setting


def recurrent(
    cell: Cell, params: dict[str, jax.Array], initial: jax.Array | None, x: jax.Array, reverse: bool
) -> jax.Array:
    """The outputs of a cell over x, from zeros or from `initial`. Raises InputError for `initial` of another shape."""
    if initial is None:
        return function(Recurrent(cell, reverse))(params, x)
    if initial.shape != (shape := (cell.states, cell.features)):
        raise InputError(f"initial must have the shape {shape}, one state for all examples, got {initial.shape}")
    return function(Recurrent(cell, reverse, initial="learned"))(params | {"initial": initial}, x)


def lstm(
    x: jax.Array, wx: jax.Array, wh: jax.Array, b: jax.Array, initial: jax.Array | None = None, reverse: bool = False
) -> jax.Array:
    """Long short-term memory over x [N, T, D], from zeros or initial [2, H], the state (h, c) -> h [N, T, H].

    (i, f, g, o) = x_t wx^T + h wh^T + b,  c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c'), with
    wx [4 H, D], wh [4 H, H], b [4 H]. The loop back carries (dh, dc) alone: dc += dh o (1 - tanh^2 c'),
    dz = (dc g i (1 - i), dc c f (1 - f), dc i (1 - g^2), dh tanh(c') o (1 - o)), dh = dz wh, dc = dc f, and after it
    dwx = dz^T x, dwh = dz^T h, db = sum dz are one product each. reverse: from the last step to the first.
    """
    return recurrent(LSTMCell(wh.shape[1]), {"wx": wx, "wh": wh, "b": b}, initial, x, reverse)


def gru(
    x: jax.Array,
    wx: jax.Array,
    wh: jax.Array,
    b: jax.Array,
    bh: jax.Array,
    initial: jax.Array | None = None,
    reverse: bool = False,
) -> jax.Array:
    """Gated recurrent unit over x [N, T, D], from zeros or initial [1, H] -> h [N, T, H].

    (ar, au, an) = x_t wx^T + b,  (hr, hu, hn) = h wh^T,  r = sigmoid(ar + hr),  u = sigmoid(au + hu),
    n = tanh(an + r (hn + bh)),  h' = n + u (h - n), with wx [3 H, D], wh [3 H, H], b [3 H], bh [H]. The loop back
    carries dh alone: dn = dh (1 - u) (1 - n^2), du = dh (h - n) u (1 - u), dr = dn (hn + bh) r (1 - r),
    dh = (dr, du, dn r) wh + dh u; the gradients are one product each after it. reverse: from last to first.
    """
    return recurrent(GRUCell(wh.shape[1]), {"wx": wx, "wh": wh, "b": b, "bh": bh}, initial, x, reverse)


def conv(
    x: jax.Array,
    w: jax.Array,
    strides: int | Sizes = 1,
    padding: Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> jax.Array:
    """y[n, p, o] = sum_ti x[n, stride p + dilation t - low, i] w[o, t, i], channels last, in 1 to 3 dimensions.

    x [N, *space, I], w [O, *kernel, I / groups] -> [N, *out, O]. dx is the transposed correlation of dy, and
    dw[o, t, i] = sum_np x[n, stride p + dilation t - low, i] dy[n, p, o]. The settings are those of jaxbp.Conv.
    """
    layer = Conv(w.shape[0], w.shape[1:-1], strides, padding, dilation, groups, bias=False)
    return function(layer)({"w": w}, x)


def conv_transpose(
    x: jax.Array,
    w: jax.Array,
    strides: int | Sizes = 1,
    padding: Padding = "SAME",
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> jax.Array:
    """The transpose of `conv` in x: x [N, *space, I], w [O, *kernel, I / groups] -> [N, *out, O].

    The settings are those of jaxbp.ConvTranspose.
    """
    layer = ConvTranspose(w.shape[0], w.shape[1:-1], strides, padding, dilation, groups, bias=False)
    return function(layer)({"w": w}, x)


def max_pool(x: jax.Array, window: Sizes, strides: int | Sizes | None = None, padding: Padding = "VALID") -> jax.Array:
    """The largest entry in each window of x [N, *space, C]; the first one of those gets dy. See jaxbp.MaxPool."""
    return function(MaxPool(window, strides, padding))({}, x)


def average_pool(
    x: jax.Array,
    window: Sizes,
    strides: int | Sizes | None = None,
    padding: Padding = "VALID",
    count_padding: bool = True,
) -> jax.Array:
    """The mean of each window of x [N, *space, C]; each entry gets dy / count. Settings of jaxbp.AveragePool."""
    return function(AveragePool(window, strides, padding, count_padding=count_padding))({}, x)
