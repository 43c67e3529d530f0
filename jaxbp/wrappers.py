"""Layers around a layer, for what no cache keeps. With `map_leaves` every leaf of a model is wrapped.

Keep    its cache also holds the input, the output and the context
Shift   adds a parameter to the output: the parameter's gradient is the delta there

A wrapped model computes the same numbers. Keep leaves the parameters and their names as they are.
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
    """A layer around another one, under the same name."""

    inner: Layer

    @property
    def label(self) -> str:
        """The name of the layer inside, so that parameter paths do not change."""
        return label(self.inner)

    @property
    def couples_batch(self) -> bool:
        """Whether the layer inside does."""
        return self.inner.couples_batch

    def init_state(self, spec: PyTree) -> PyTree:
        return self.inner.init_state(spec)


@dataclass(frozen=True)
class Keep(Wrapper):
    """`inner` with a `Kept` for its cache. index: a number for whoever wraps, such as the forward order."""

    index: int = 0

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.inner.init(key, spec)

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
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
    """y = inner(x) + shift, with params {"inner", "shift"} and dshift = dy.

    The shift has the shape of one batch's output: it serves an analysis of that batch, not a model.
    """

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return {"inner": self.inner.init(key, spec), "shift": jnp.zeros(output_spec(self.inner, spec).shape)}

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        y, cache = self.inner.forward(params["inner"], x, ctx)
        return y + params["shift"].astype(y.dtype), cache

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[PyTree, PyTree]:
        dx, grads = self.inner.backward(params["inner"], cache, dy)
        return dx, {"inner": grads, "shift": dy.astype(params["shift"].dtype)}

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return self.inner.next_state(state, cache)
