"""Keep: a layer whose cache also holds its input, output and context, for rules that want what no cache keeps.

Wrapped around every leaf by `map_leaves` it changes no number, no name and no parameter.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax

from jaxbp.core import Case, Context, Layer, PyTree, Shared, label, register, shaped
from jaxbp.layers.dense import Dense
from jaxbp.outer import Outer


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

    def factors(self, params: PyTree, cache: PyTree, dy: PyTree) -> dict[str, Outer]:
        return self.inner.factors(params, cache.cache, dy)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Keep(Dense(7)), shaped(5, 3))]
