"""Convolution over 1, 2 or 3 spatial axes, channels last: cross-correlation, as in every framework.

    forward   y[n, p, o] = sum_{t, i} x_t[n, p, i] w[o, t, i] + b[o]       x_t[n, p] = x[n, stride p + dilation t - low]
    backward  dx[n, j, i] = sum_{t, o} w[o, t, i] dy[n, p, o]             over p, t with stride p + dilation t - low = j
              dw[o, t, i] = sum_{n, p} x_t[n, p, i] dy[n, p, o]
              db[o]       = sum_{n, p} dy[n, p, o]

(LeCun et al. 1989; Dumoulin & Visin 2016, arXiv 1603.07285, for the arithmetic.) p, j are positions, t an entry of the
kernel, o and i the channels of one group. Keeps x, which the layer below keeps anyway. Costs three times 2 N P K I O /
groups operations for P output positions and a kernel of K entries. How each sum is computed is in `correlation`.

For a rule that needs the activation behind each entry of w, it is the patch that output p reads. Patches are K times as
large as x, so `PatchFactors` makes them where they are used, of some examples at a time (Grosse & Martens 2016, arXiv
1602.01407, section 3.1, for the curvature; Rochette et al. 2019, arXiv 1912.06015, for per-example gradients).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jax import lax

from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors, GroupedFactors, Sharing, over_leading_axes, register_factors, total
from jaxbp.inits import Initializer, initializer, weight_and_bias
from jaxbp.ops.bias import add_bias, bias_gradient
from jaxbp.ops.correlation import correlate, correlate_transposed, correlate_weights
from jaxbp.ops.windows import Padding, Window, are_pairs, patches


@dataclass(frozen=True)
class Conv(Layer):
    """[N, *space, I] -> [N, *out, features]; w [features, *kernel, I / groups] and b [features].

    kernel: its 1, 2 or 3 sizes, one for each spatial axis; or one size for all axes, however many the input has: then
    strides, dilation and padding are for all axes too. strides, dilation: one for all axes, or one for each.
    padding: "SAME" (out = ceil(space / stride)), "VALID" (none), or a pair (low, high) of zeros for each axis; always
    out = floor((space + low + high - dilation (kernel - 1) - 1) / stride) + 1. groups: divides I and features; only
    input and output channels of the same group meet. Depthwise is groups = I: Conv(32, groups=32) on 32 channels.
    w_init, b_init: names or initializers of jaxbp.inits (fan_in = K I / groups, fan_out = K features).
    Raises InputError for settings outside of these ranges, and in use for inputs that do not fit.
    """

    features: int
    kernel: int | tuple[int, ...] = (3, 3)
    strides: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    bias: bool = True
    w_init: str | Initializer = "lecun_normal"
    b_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        sizes = each_axis(self.kernel, 1)
        rank = len(sizes)
        name = type(self).__name__
        if not (1 <= rank <= 3 and min(sizes) >= 1):
            raise InputError(f"{name}: kernel must be 1 to 3 sizes of at least 1, got {self.kernel}")
        one_for_all = isinstance(self.strides, int) and isinstance(self.dilation, int) and isinstance(self.padding, str)
        if isinstance(self.kernel, int) and not one_for_all:
            raise InputError(
                f"{name}: strides, dilation or padding for each axis need a kernel for each axis, got {self.kernel}"
            )
        for key in ("strides", "dilation"):
            sizes = each_axis(getattr(self, key), rank)
            if len(sizes) != rank or min(sizes) < 1:
                raise InputError(f"{name}: {key} must be at least 1, one or {rank} of them, got {getattr(self, key)}")
        if self.padding not in ("SAME", "VALID") and not are_pairs(self.padding, rank):
            raise InputError(
                f"{name}: padding must be 'SAME', 'VALID' or {rank} pairs (low, high) of at least 0, "
                f"got {self.padding!r}"
            )
        if self.groups < 1 or self.features < 1 or self.features % self.groups:
            raise InputError(
                f"{name}: features must be a positive multiple of groups, "
                f"got features {self.features} and groups {self.groups}"
            )
        initializer(self.w_init)
        initializer(self.b_init)

    def window(self, space: tuple[int, ...]) -> Window:
        """Where the kernel meets an input of that spatial shape."""
        rank = len(space)
        kernel, strides, dilation = (each_axis(sizes, rank) for sizes in (self.kernel, self.strides, self.dilation))
        bare = Window(space, kernel, strides, ((0, 0),) * rank, dilation, self.groups)
        if isinstance(self.padding, str):
            return replace(bare, padding=tuple(lax.padtype_to_pads(space, bare.reach, strides, self.padding)))
        return replace(bare, padding=tuple(self.padding))

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        rank = min(max(1, spec.ndim - 2), 3) if isinstance(self.kernel, int) else len(self.kernel)
        if spec.ndim != rank + 2 or spec.shape[-1] % self.groups:
            raise InputError(
                f"{type(self).__name__}: an input of shape {spec.shape} does not have {rank} "
                f"spatial axes between its batch and a multiple of {self.groups} channels"
            )
        shape = (self.features, *each_axis(self.kernel, rank), spec.shape[-1] // self.groups)
        return weight_and_bias(key, shape, self.w_init, self.b_init if self.bias else None)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        window = self.window(x.shape[1:-1])
        if min(window.out) < 1:
            raise InputError(
                f"{type(self).__name__}: a kernel that reaches over {window.reach} with padding "
                f"{window.padding} does not fit an input of {window.space}"
            )
        return self.biased(correlate(x, params["w"].astype(x.dtype), window), params), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        window = self.window(x.shape[1:-1])
        w = params["w"]
        dx = correlate_transposed(dy, w.astype(dy.dtype), window)
        return dx, {"w": correlate_weights(x, dy, window, w.dtype)} | self.bias_gradient(params, dy)

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        return {"w": PatchFactors(x, dy, self.window(x.shape[1:-1]))} | self.bias_factors(dy)

    def biased(self, y: jax.Array, params: PyTree) -> jax.Array:
        """y + b, or y without a bias."""
        return add_bias(y, params["b"]) if self.bias else y

    def bias_gradient(self, params: PyTree, dy: jax.Array) -> PyTree:
        """{"b": db}, or nothing without a bias."""
        return {"b": bias_gradient(dy, params["b"].dtype)} if self.bias else {}

    def bias_factors(self, dy: jax.Array) -> dict[str, Factors]:
        """{"b": its factors}, or nothing without a bias."""
        return {"b": Factors.of_bias(dy.reshape(len(dy), -1, dy.shape[-1]))} if self.bias else {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(Conv(3, (3,), strides=2, dilation=2), shaped(5, 11, 2), name="1d"),
            Case(Conv(3, (3, 2), strides=(2, 1), padding=((2, 1), (0, 1))), shaped(5, 8, 5, 2), name="strided"),
            Case(Conv(6, (2, 3), groups=3, padding="VALID"), shaped(5, 4, 5, 3 * 2), name="groups"),
            Case(Conv(6, (3, 2), strides=2, dilation=(1, 2), groups=3, bias=False), shaped(5, 7, 5, 3), name="depth"),
            Case(Conv(3, (2, 1), strides=(3, 1), padding=((1, 1), (0, 0))), shaped(5, 8, 3, 2), name="disjoint"),
            Case(Conv(2, (2, 1, 3)), shaped(5, 3, 2, 4, 3), name="3d"),
        ]


def each_axis(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """A setting for each axis, from one for all or from one for each."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


@partial(register_factors, meta_fields=["window"])
@dataclass(frozen=True)
class PatchFactors(GroupedFactors):
    """Input a [N, *space, I] and delta g [N, *out, O]: dw [O, K I / groups], with the entries in the order of w."""

    window: Window

    @property
    def axes(self) -> int:
        return 2 + len(self.window.kernel)

    @property
    def norm_memory(self) -> int:
        row = prod(self.window.kernel) * self.a.shape[-1] // self.window.groups  # entries of w for one output channel
        return max(prod(self.window.out) * row * self.window.groups, row * self.g.shape[-1])

    def pair(self, a: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Patches [G, S, K I / groups] and deltas [G, S, O / groups] of one example."""
        groups = self.window.groups
        p = patches(a[None], self.window).reshape(-1, prod(self.window.kernel), groups, a.shape[-1] // groups)
        p = jnp.moveaxis(p, 2, 0).reshape(groups, len(p), -1)
        return p, jnp.moveaxis(g.reshape(-1, groups, g.shape[-1] // groups), 1, 0)

    def example_gradient(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return super().example_gradient(*self.pair(a, g))

    def squared_norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return super().squared_norm(*self.pair(a, g))

    @over_leading_axes
    def gradient(self) -> jax.Array:
        return correlate_weights(self.a, self.g, self.window, self.a.dtype).reshape(self.g.shape[-1], -1)

    @over_leading_axes
    def kronecker(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """As of Factors; with groups, those of each group along a leading axis."""

        def example(a: jax.Array, g: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
            return PatchFactors(a[None], g[None], self.window).dense().kronecker(weight[None], sharing)

        return total(example, self.a, self.g, weight)

    def dense(self) -> Factors:
        """The same factors with all patches formed; axes before the batch stay."""
        if self.a.ndim > self.axes:
            return jax.vmap(lambda entry: entry.dense())(self)
        a, g = jax.vmap(self.pair)(self.a, self.g)
        return Factors(a[:, 0], g[:, 0]) if self.window.groups == 1 else GroupedFactors(a, g)

    def concatenated(self, other: Factors) -> Factors:
        return self.dense().concatenated(other.dense() if isinstance(other, PatchFactors) else other)
