"""Layers around a layer, for what no cache keeps. `map_leaves` wraps every leaf; no number and no name changes.

Keep    its cache also holds the input, the output and the context
Shift   a parameter is added to the output: its gradient is the delta there
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, Shared, label, output_spec, register, shaped
from jaxbp.factors import Factors
from jaxbp.layers.dense import Dense


@partial(register, data_fields=["x", "y", "ctx", "cache"], meta_fields=[])
@dataclass(frozen=True)
class Kept:
    """All of a layer's forward pass: what went in, what came out, and the layer's own cache."""

    x: PyTree
    y: PyTree
    ctx: Shared
    cache: PyTree


@dataclass(frozen=True)
class Wrapper(Layer):
    """A layer around another, under the same name."""

    inner: Layer

    @property
    def label(self) -> str:
        """The name of the layer inside, so that parameter paths stay as they are."""
        return label(self.inner)

    @property
    def couples_batch(self) -> bool:
        """As the layer inside."""
        return self.inner.couples_batch

    def init_state(self, spec: PyTree) -> PyTree:
        return self.inner.init_state(spec)


@dataclass(frozen=True)
class Keep(Wrapper):
    """`inner` with a `Kept` for its cache. index: a number for whoever wraps, such as the forward order."""

    index: int = 0

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.inner.init(key, spec)

    def forward(self, params: PyTree, x: PyTree, ctx: Context) -> tuple[PyTree, PyTree]:
        y, cache = self.inner.forward(params, x, ctx)
        return y, Kept(x, y, Shared(ctx), cache)

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        return self.inner.backward(params, cache.cache, dy)

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return self.inner.next_state(state, cache.cache)

    def factors(self, params: PyTree, cache: PyTree, dy: PyTree) -> dict[str, Factors]:
        return self.inner.factors(params, cache.cache, dy)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Keep(Dense(7)), shaped(5, 3))]


@dataclass(frozen=True)
class Shift(Wrapper):
    """y = inner(x) + shift, params {"inner", "shift"}: dshift = dy. No layer for models: the shift is of one batch."""

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return {"inner": self.inner.init(key, spec), "shift": jnp.zeros(output_spec(self.inner, spec).shape)}

    def forward(self, params: PyTree, x: PyTree, ctx: Context) -> tuple[jax.Array, PyTree]:
        y, cache = self.inner.forward(params["inner"], x, ctx)
        return y + params["shift"].astype(y.dtype), cache

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[PyTree, PyTree]:
        dx, grads = self.inner.backward(params["inner"], cache, dy)
        return dx, {"inner": grads, "shift": dy.astype(params["shift"].dtype)}

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return self.inner.next_state(state, cache)
