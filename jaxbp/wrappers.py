"""Layers around a layer, for what no cache keeps. With `map_leaves` every leaf of a model is wrapped.

Keep        its cache also holds the input, the output and the context
Shift       adds a parameter to the output: the parameter's gradient is the delta there
ComputedIn  casts at its door: a whole model in bfloat16 or float16

A model wrapped in Keep or Shift computes the same numbers. Keep and ComputedIn leave the parameters and their names as
they are.

ComputedIn is all of mixed precision. Layers cast their weights to the dtype of their input, sum in float32 (products,
norms, softmax, biases, the gradients of weights), and give gradients in the dtype of the parameters, float32. So only
the model's input is cast, and where it is integer, the layers with a field `dtype` (Embedding, OneHot) make numbers of
that dtype from it. The output goes back to float32, and the loss is computed there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import (
    Case,
    Context,
    Layer,
    PyTree,
    Shared,
    Static,
    cast,
    label,
    map_leaves,
    output_spec,
    register,
    shaped,
)
from jaxbp.factors import Factors
from jaxbp.layers.dense import Dense
from jaxbp.rules import gradient


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

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.inner.init(key, spec)

    def init_state(self, spec: PyTree) -> PyTree:
        return self.inner.init_state(spec)

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return self.inner.next_state(state, cache)


@dataclass(frozen=True)
class Keep(Wrapper):
    """`inner` with a `Kept` for its cache. index: a number for whoever wraps, such as the forward order."""

    index: int = 0

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


def kept_in_order(model: Layer) -> Layer:
    """`model` with every leaf layer in a Keep, whose index is the layer's place in the forward pass."""
    places = itertools.count()
    return map_leaves(model, lambda layer: Keep(layer, next(places)))


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


@dataclass(frozen=True)
class ComputedIn(Wrapper):
    """`inner` with x and dy cast to `dtype` at its door, and y and dx cast back. Parameters and caches are its own."""

    dtype: str

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.inner.init(key, self.cast_spec(spec))

    def init_state(self, spec: PyTree) -> PyTree:
        return self.inner.init_state(self.cast_spec(spec))

    def cast_spec(self, spec: PyTree) -> PyTree:
        """The spec of what the layer inside gets."""
        return jax.eval_shape(lambda x: cast(x, self.dtype), spec)

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        y, cache = self.inner.forward(params, cast(x, self.dtype), ctx)
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(x))
        is_array = isinstance(y, jax.Array)  # else a Deferred, which goes on in `dtype`
        return y.astype(dtype) if is_array else y, (cache, Static(dtype))

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        return self.sweep(gradient, params, cache, dy)

    def sweep(self, rule: Callable, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        inner_cache, dtype = cache
        dy = dy.astype(self.dtype) if isinstance(dy, jax.Array) else dy
        dx, outputs = self.inner.sweep(rule, params, inner_cache, dy)
        return cast(dx, dtype.value), outputs

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return self.inner.next_state(state, cache[0])

    def map(self, f: Callable[[Layer], Layer]) -> ComputedIn:
        return replace(self, inner=f(self.inner))


def computed_in(model: Layer, dtype: str) -> Layer:
    """The same model with its products in `dtype`; float32 leaves it as it is."""
    if dtype == "float32":
        return model
    numbers = lambda leaf: replace(leaf, dtype=dtype) if hasattr(leaf, "dtype") else leaf
    return ComputedIn(map_leaves(model, numbers), dtype)
