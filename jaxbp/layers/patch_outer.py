"""The factors of a convolution's weights: the activation of an output position is the patch that it reads.

Patches are K times as large as their input, so they are made where they are used, of some examples at a time
(Grosse & Martens 2016, arXiv 1602.01407, section 3.1, for the curvature; Rochette et al. 2019, arXiv 1912.06015, for
per-example gradients of convolutions).
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp

from jaxbp.layers.correlation import correlate_weights
from jaxbp.layers.windows import Window, patches
from jaxbp.outer import GroupedOuter, Outer, Sharing, over_leading, register, total


@partial(register, meta_fields=["window"])
@dataclass(frozen=True)
class PatchOuter(GroupedOuter):
    """Input a [N, *space, I] and delta g [N, *out, O]: dw [O, K I / groups], in the order of the kernel's memory."""

    window: Window

    @property
    def axes(self) -> int:
        return 2 + len(self.window.kernel)

    @property
    def entries(self) -> int:
        w = prod(self.window.kernel) * self.a.shape[-1] // self.window.groups
        return max(prod(self.window.out) * w * self.window.groups, w * self.g.shape[-1])

    def pair(self, a: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Patches [G, S, K I / groups] and deltas [G, S, O / groups] of one example."""
        groups, kernel = self.window.groups, prod(self.window.kernel)
        p = patches(a[None], self.window).reshape(-1, kernel, groups, a.shape[-1] // groups)
        return (jnp.moveaxis(p, 2, 0).reshape(groups, len(p), -1),
                jnp.moveaxis(g.reshape(-1, groups, g.shape[-1] // groups), 1, 0))

    def alone(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return super().alone(*self.pair(a, g))

    def norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return super().norm(*self.pair(a, g))

    @over_leading
    def gradient(self) -> jax.Array:
        return correlate_weights(self.a, self.g, self.window, self.a.dtype).reshape(self.g.shape[-1], -1)

    @over_leading
    def moments(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """A pair, or one for each group with a leading axis."""
        one = lambda a, g, weight: PatchOuter(a[None], g[None], self.window).dense().moments(weight[None], sharing)
        return total(one, self.a, self.g, weight)

    def dense(self) -> Outer:
        """The factors with all patches made; axes before the batch stay."""
        if self.a.ndim > self.axes:
            return jax.vmap(lambda entry: entry.dense())(self)
        a, g = jax.vmap(self.pair)(self.a, self.g)
        return Outer(a[:, 0], g[:, 0]) if self.window.groups == 1 else GroupedOuter(a, g)

    def joined(self, other: Outer) -> Outer:
        return self.dense().joined(other.dense())
