"""Layers as operations: their weights are arguments. Each runs the forward and the backward of its layer.

The mathematics is at the top of the layer's file: jaxbp.layers.recurrent and cells, convolution, convolution_transpose,
pooling.
"""

from __future__ import annotations

from functools import cache

import jax

from jaxbp.backprop import as_function
from jaxbp.layers.cells import GRUCell, LSTMCell
from jaxbp.layers.convolution import Conv
from jaxbp.layers.convolution_transpose import ConvTranspose
from jaxbp.layers.pooling import AveragePool, MaxPool
from jaxbp.layers.recurrent import Recurrent
from jaxbp.ops.windows import Padding

function = cache(as_function)  # of equal layers one function, so that what JAX has compiled for it is found again
Sizes = tuple[int, ...]


def lstm(
    x: jax.Array, wx: jax.Array, wh: jax.Array, b: jax.Array, initial: jax.Array | None = None, reverse: bool = False
) -> jax.Array:
    """Long short-term memory over x [N, T, D], from zeros or initial [2, H], the state (h, c) -> h [N, T, H].

    (i, f, g, o) = x_t wx^T + h wh^T + b,  c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c'), with
    wx [4 H, D], wh [4 H, H], b [4 H]. The loop back carries (dh, dc) alone: dc += dh o (1 - tanh^2 c'),
    dz = (dc g i (1 - i), dc c f (1 - f), dc i (1 - g^2), dh tanh(c') o (1 - o)), dh = dz wh, dc = dc f, and after it
    dwx = dz^T x, dwh = dz^T h, db = sum dz are one product each. reverse: from the last step to the first.
    """
    layer = Recurrent(LSTMCell(wh.shape[1]), reverse, initial="zeros" if initial is None else "learned")
    params = {"wx": wx, "wh": wh, "b": b} | ({} if initial is None else {"initial": initial})
    return function(layer)(params, x)


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
    layer = Recurrent(GRUCell(wh.shape[1]), reverse, initial="zeros" if initial is None else "learned")
    params = {"wx": wx, "wh": wh, "b": b, "bh": bh} | ({} if initial is None else {"initial": initial})
    return function(layer)(params, x)


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
