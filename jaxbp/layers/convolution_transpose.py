"""Transposed convolution (fractional strides): the linear map whose matrix is the transpose of a convolution's.

With x_t now the entries of the larger array, y, that tap t of the convolution from y to x would read,

    forward   y[n, j, o] = sum_{t, i} w[o, t, i] x[n, p, i] + b[o]        over p, t with stride p + dilation t - low = j
    backward  dx[n, p, i] = sum_{t, o} dy_t[n, p, o] w[o, t, i]          dy_t[n, p] = dy[n, stride p + dilation t - low]
              dw[o, t, i] = sum_{n, p} dy_t[n, p, o] x[n, p, i]
              db[o]       = sum_{n, j} dy[n, j, o]

So forward is the input gradient of that convolution, backward its forward, and the weight gradient is the same sum with
x and dy in each other's place (Dumoulin & Visin 2016, arXiv 1603.07285, chapter 4; Zeiler et al. 2010). Keeps x. Costs
three times 2 N P K I O / groups operations, for P positions of the input and a kernel of K entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import jax

from jaxbp.core import Case, Context, PyTree, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors, GroupedFactors
from jaxbp.layers.convolution import Conv, each_axis
from jaxbp.ops.correlation import correlate, correlate_transposed, correlate_weights, exchanged
from jaxbp.ops.windows import Window, patches


@dataclass(frozen=True)
class ConvTranspose(Conv):
    """[N, *space, I] -> [N, *out, features]; w [features, *kernel, I / groups] and b [features].

    Settings are as in Conv. padding is that of the convolution which this layer transposes: it is cut from the output.
    Along each axis, with reach = dilation (kernel - 1) + 1,

        "SAME"       out = stride space
        "VALID"      out = stride space + max(reach - stride, 0)
        (low, high)  out = stride (space - 1) + reach - low - high

    The kernel is not flipped: input position p adds w[:, t] x[p] to output position stride p + dilation t - low. (The
    same numbers as a convolution of the input spread by zeros, with the kernel flipped.)
    """

    def enlarged(self, space: tuple[int, ...]) -> Window:
        """Where the kernel meets the output, for an input of the spatial shape `space`."""
        reach = self.window(space).reach
        strides = each_axis(self.strides, len(space))
        sizes = list(zip(space, reach, strides, strict=True))
        if self.padding == "SAME":
            out = [s * n for n, _, s in sizes]
        elif isinstance(self.padding, str):
            out = [s * n + max(r - s, 0) for n, r, s in sizes]
        else:
            cuts = [low + high for low, high in self.padding]
            out = [s * (n - 1) + r - cut for (n, r, s), cut in zip(sizes, cuts, strict=True)]
        if min(out) < 1:
            raise InputError(f"ConvTranspose: padding {self.padding} leaves no output for an input of {space}")
        return self.window(tuple(out))

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        w = exchanged(params["w"].astype(x.dtype), self.groups)
        return self.biased(correlate_transposed(x, w, self.enlarged(x.shape[1:-1])), params), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        window = self.window(dy.shape[1:-1])
        w = params["w"]
        dx = correlate(dy, exchanged(w.astype(dy.dtype), self.groups), window)
        dw = exchanged(correlate_weights(dy, x, window, w.dtype), self.groups)
        return dx, {"w": dw} | self.bias_gradient(params, dy)

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        n = len(x)
        groups = self.groups
        a = x.reshape(n, -1, groups, x.shape[-1] // groups).transpose(0, 2, 1, 3)  # [N, G, S, I]
        window = self.window(dy.shape[1:-1])
        p = patches(dy, window)
        p = p.reshape(n, -1, prod(window.kernel), groups, dy.shape[-1] // groups)  # [N, S, K, G, O]
        g = p.transpose(0, 3, 1, 4, 2).reshape(*a.shape[:3], -1)  # [N, G, S, O K], as w is stored
        return {"w": Factors(a[:, 0], g[:, 0]) if groups == 1 else GroupedFactors(a, g)} | self.bias_factors(dy)

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(ConvTranspose(3, (3, 2), strides=(2, 1), padding=((1, 0), (0, 1))), shaped(5, 4, 3, 2)),
            Case(ConvTranspose(6, (3,), strides=2, groups=3), shaped(5, 4, 3 * 2), name="groups"),
            Case(ConvTranspose(3, (1, 2), (2, 3), "VALID", bias=False), shaped(5, 4, 3, 2), name="disjoint"),
        ]
