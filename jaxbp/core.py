"""The contract: a layer is a frozen dataclass of hyper-parameters with pure functions forward and backward.

Read this file first. A layer file derives from `Layer`, writes `forward` and `backward` side by side and gives its own
`cases()`; existing is all the registration it needs. Letters used in shape comments and einsums:
N batch, T time, S any flattened position, I features in, O features out, D model width, C channels, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from textwrap import indent
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.errors import InputError
from jaxbp.factors import Factors
from jaxbp.letters import Letters, first_entry

PyTree = Any
Batch = dict[str, PyTree]  # "x" [N, ...], "y" (the targets), "weight" (shape of the per-item losses)
register = jax.tree_util.register_dataclass


@partial(register, data_fields=["key", "state", "counts"], meta_fields=["train", "axes", "split"])
@dataclass(frozen=True)
class Context:
    """What is neither parameter nor data: randomness, state such as running statistics, and the mode (static).

    counts [N]: the rows of the batch that count, where not all do; layers that couple the batch leave the others out.
    axes: the names of the mesh axes that split the batch among devices; a layer that couples the batch sums its sums
    over them, forward and backward. Empty where one device has the whole batch.
    split: the name of the mesh axis whose devices share the layer's letter (jaxbp.letters); None: the layer is whole.
    """

    key: jax.Array | None = None
    state: PyTree = None
    train: bool = True
    counts: jax.Array | None = None
    axes: tuple[str, ...] = ()
    split: str | None = None

    def child(self, index: int, name: str) -> Context:
        """The context of child `index`: a key of its own, and its part of the state."""
        key = None if self.key is None else jax.random.fold_in(self.key, index)
        return replace(self, key=key, state=None if self.state is None else self.state[name])

    def own_rows(self, draw: Callable[[tuple[int, ...]], jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """draw(shape), random numbers for the rows [N, ...] of a batch.

        Where several devices have the batch, they are this device's rows of what is drawn for all of it: what a row
        gets does not depend on how many devices there are.
        """
        if not self.axes:
            return draw(shape)
        whole = draw((shape[0] * jax.lax.psum(1, self.axes), *shape[1:]))
        return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(self.axes) * shape[0], shape[0])

    def own_entries(self, draw: Callable[[tuple[int, ...]], jax.Array], shape: tuple[int, ...]) -> jax.Array:
        """`own_rows` of arrays [N, ..., F] whose last axis several devices may share: this device's entries."""
        if self.split is None:
            return self.own_rows(draw, shape)
        whole = self.own_rows(draw, (*shape[:-1], shape[-1] * jax.lax.psum(1, self.split)))
        return jax.lax.dynamic_slice_in_dim(whole, first_entry(self.split, shape[-1]), shape[-1], -1)

    def counted(self, batch: Batch) -> tuple[PyTree, Context]:
        """-> (the batch's x, this context with `counts`): a row counts where any of its weights is not 0.

        Floating-point rows that do not count are zeros in x, for they may hold anything, nan too. All rows count where
        the batch has no weight for each of them. Raises InputError for a batch without "x".
        """
        x = entry(batch, "x")
        weight = jnp.asarray(batch.get("weight", 1))
        if not weight.ndim:
            return x, self
        counts = jnp.any(weight.reshape(len(weight), -1) != 0, 1)  # [N]

        def zeroed(x: jax.Array) -> jax.Array:
            if not jnp.issubdtype(x.dtype, jnp.floating):
                return x
            return jnp.where(counts.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)

        return jax.tree.map(zeroed, x), replace(self, counts=counts)

    @classmethod
    def evaluation(cls, state: PyTree = None, axes: tuple[str, ...] = ()) -> Context:
        """The context of a prediction: no randomness, and the running statistics of `state`."""
        return cls(None, state, train=False, axes=axes)

    def draw(self, purpose: Literal["augment", "targets", "noise"]) -> jax.Array:
        """The key of a random choice that no layer makes. Raises InputError where the context has none."""
        if self.key is None:
            raise InputError(f"{purpose} are drawn at random: give the context a key, Context(jax.random.key(0))")
        return jax.random.fold_in(self.key, RESERVED[purpose])


@partial(register, data_fields=[], meta_fields=["value"])
@dataclass(frozen=True)
class Static:
    """A fact that a cache carries in its structure (a shape, a dtype), not as an array."""

    value: Any


@partial(register, data_fields=["value"], meta_fields=[])
@dataclass(frozen=True)
class Shared:
    """Arrays of a cache that have no batch axis (a running variance): per-example rules do not map over them."""

    value: Any


@partial(register, data_fields=["value"], meta_fields=[])
@dataclass(frozen=True)
class Running(Shared):
    """Running statistics that took the place of the batch's own: the pass that left this cache mixed no examples."""


RESERVED = {"augment": 2**32 - 1, "targets": 2**32 - 2, "noise": 2**32 - 3}  # no layer's index is so large
_REGISTRY: dict[str, type[Layer]] = {}


@dataclass(frozen=True)
class Layer:
    """Fields are hyper-parameters: hashable, printable, comparable. The nine methods below are all there are.

    Most layers write three: init, forward, backward. Rules that every layer's tests enforce:
    params are never in the cache; cache arrays have the batch axis first (or are `Shared`, or `Static`);
    backward is linear in dy; grads has exactly the tree, shapes and dtypes of params; dx is None for integer inputs.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        type.__setattr__(cls, "__repr__", cls.__repr__)  # else @dataclass writes one that names every default
        _REGISTRY[f"{cls.__module__}.{cls.__qualname__}"] = cls

    @property
    def couples_batch(self) -> bool:
        """Whether one example's output depends on another in training. Where it does, a layer sets it True."""
        return False

    @property
    def letters(self) -> Letters:
        """What devices can share of it: nothing, for most layers."""
        return Letters()

    def __repr__(self) -> str:
        """The call that makes this layer, without the fields that are at their defaults."""
        arguments = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_required = field.default is field.default_factory is dataclasses.MISSING
            if is_required or value != field.default:
                arguments.append(("" if is_required and not field.kw_only else f"{field.name}=") + value_text(value))
        return call_text(type(self).__qualname__, arguments)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        """Parameters for inputs of shape and dtype `spec`: a jax.ShapeDtypeStruct or an array, batch axis included."""
        return {}

    def init_state(self, spec: PyTree) -> PyTree:
        """State (running statistics, a carried hidden state); {} for most layers."""
        return {}

    def forward(self, params: PyTree, x: PyTree, ctx: Context) -> tuple[PyTree, PyTree]:
        """-> (y, cache): the output, and what backward needs besides the parameters."""
        raise NotImplementedError

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        """-> (dx, grads): BP2, the delta sent back; BP3 and BP4, the delta contracted with the cached activation."""
        raise NotImplementedError

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        """The state after a forward pass that left `cache`."""
        return state

    def factors(self, params: PyTree, cache: PyTree, dy: PyTree) -> dict[str, Factors]:
        """{leaf name: the activation and the delta whose contraction is that leaf's gradient}."""
        return {}

    def sweep(self, rule: Callable, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        """-> (dx, outputs): the reverse pass with `rule` taken at every leaf layer. Combinators override."""
        return rule(self, params, cache, dy)

    def map(self, f: Callable[[Layer], Layer]) -> Layer:
        """This layer with `f` applied to its children. Combinators override; a leaf has none and returns itself."""
        return self

    @classmethod
    def cases(cls) -> list[Case]:
        """Examples of this layer that its tests, the gradient check and the benchmarks run on."""
        return []


@dataclass(frozen=True)
class Case:
    """One layer with an input: what the conformance tests, the gradient check and the benchmarks run on.

    spec is the input's shape and dtype (a tree of them where the layer takes several), sizes distinct and coprime.
    sample(key, spec) draws inputs that keep off kinks. reason names every check the case is excused from, and why.
    """

    layer: Layer
    spec: PyTree
    sample: Callable[[jax.Array, jax.ShapeDtypeStruct], jax.Array] | None = None
    name: str = ""
    excused: tuple[tuple[str, str], ...] = ()  # (check, written reason)

    def __str__(self) -> str:
        return f"{label(self.layer)}{'-' if self.name else ''}{self.name}"

    def draw(self, key: jax.Array, spec: PyTree | None = None) -> PyTree:
        """An input of shape and dtype `spec` (default: the case's own)."""
        leaves, tree = jax.tree.flatten(self.spec if spec is None else spec)
        keys = jax.random.split(key, len(leaves))
        arrays = [(self.sample or normal)(k, leaf) for k, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, arrays)


def shaped(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """The spec of an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def normal(key: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Standard normal inputs, the default of a case."""
    return jax.random.normal(key, spec.shape, spec.dtype)


def off_zero(key: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
    """Normal inputs at least 0.1 away from zero, for layers with a kink there."""
    x = normal(key, spec)
    return x + jnp.where(x < 0, -0.1, 0.1).astype(spec.dtype)


def layer_types() -> dict[str, type[Layer]]:
    """Every layer class by 'module.Name', those of a user included: registered by existing."""
    return dict(sorted(_REGISTRY.items()))


def label(layer: Layer) -> str:
    """The short lower-case name of a layer in parameter paths; a wrapper may carry its own as an attribute `label`."""
    return getattr(layer, "label", type(layer).__name__.lower())


def leaf_layers(layer: Layer) -> list[Layer]:
    """The leaf layers in a tree of combinators, in order."""
    leaves: list[Layer] = []

    def collect(leaf: Layer) -> Layer:
        leaves.append(leaf)
        return leaf

    map_leaves(layer, collect)
    return leaves


def layers_in(layer: Layer) -> Iterator[Layer]:
    """The layer and all that are in it, combinators too."""
    yield layer
    children: list[Layer] = []

    def collect(child: Layer) -> Layer:
        children.append(child)
        return child

    layer.map(collect)
    for child in children:
        yield from layers_in(child)


def map_leaves(layer: Layer, f: Callable[[Layer], Layer]) -> Layer:
    """The same combinators with `f` applied to every leaf layer."""
    mapped = layer.map(lambda child: map_leaves(child, f))
    return f(layer) if mapped is layer else mapped


@partial(jax.jit, static_argnums=(0, 1))
def _initial_output(layer: Layer, train: bool, key: jax.Array, x: PyTree) -> PyTree:
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    return layer.forward(layer.init(key, spec), x, Context(key, layer.init_state(spec), train))[0]


def output_spec(layer: Layer, spec: PyTree, train: bool = True) -> PyTree:
    """The shape and dtype of the layer's output for an input of shape and dtype `spec`, by tracing forward.

    Nested combinators ask this of the same child many times. Only the first time traces: jit keeps what it traced, so
    init takes time linear in the depth. Unlike functools.cache, jit traces again when x64 or another setting of JAX
    has changed.
    """
    return _initial_output.eval_shape(layer, train, jax.eval_shape(lambda: jax.random.key(0)), spec)


def state_after(layer: Layer, ctx: Context, cache: PyTree) -> PyTree:
    """The state after a forward pass in `ctx` that left `cache`; None where the context has no state."""
    return None if ctx.state is None else layer.next_state(ctx.state, cache)


class LayerError(InputError):
    """Bad input that a layer inside a model met: `path` names the layer, `words` say what is wrong."""

    def __init__(self, path: str, words: str) -> None:
        super().__init__(f"{path}: {words}")
        self.path = path
        self.words = words


@contextmanager
def inside(name: str, **arrays: PyTree) -> Iterator[None]:
    """Gives a child's operations its name in the compiled program, and its errors its path and what it got.

    An error of shapes, types or names becomes an InputError; any other one keeps its type and gets a note.
    """
    try:
        with jax.named_scope(name):
            yield
    except LayerError as error:
        raise LayerError(f"{name}/{error.path}", error.words) from error.__cause__
    except InputError as error:
        raise LayerError(name, str(error)) from error
    except Exception as error:
        shapes = ", ".join(f"{what} {shapes_text(tree)}" for what, tree in arrays.items() if jax.tree.leaves(tree))
        if type(error) not in (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError):
            error.add_note(f"in layer {name}: {shapes}")
            raise
        raise LayerError(name, f"{shapes}: {type(error).__name__}: {error}") from error


def shapes_text(tree: PyTree) -> str:
    """'b (8,), w (8, 3)': the shape of every array, after its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return ", ".join(f"{path_name(path)} {getattr(leaf, 'shape', ())}".lstrip() for path, leaf in leaves)


def part(params: PyTree, name: str) -> PyTree:
    """The parameters of one child. Raises InputError where there are none of that name."""
    if name not in params:
        raise InputError(f"the parameters have no '{name}' (they have: {', '.join(map(str, params)) or 'nothing'})")
    return params[name]


def call_text(name: str, arguments: list[str]) -> str:
    """The text of a call: on one line if it fits 100 columns, else with an argument on each line."""
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= 100 and "\n" not in line:
        return line
    lines = ",\n".join(arguments)
    return f"{name}(\n{indent(lines, '    ')},\n)"


def value_text(value: Any) -> str:
    """repr, with a long tuple written as `call_text` writes a call."""
    is_long = type(value) is tuple and len(value) > 1
    return call_text("", [value_text(entry) for entry in value]) if is_long else repr(value)


def require(config: object, field: str, holds: bool, words: str) -> None:
    """Raises InputError unless a hyper-parameter `holds` what it must: "Dense: features must be at least 1, got 0"."""
    if not holds:
        raise InputError(f"{type(config).__name__}: {field} must be {words}, got {getattr(config, field)}")


def entry(batch: Batch, key: str) -> PyTree:
    """batch[key]. Raises InputError where it is missing."""
    if key not in batch:
        raise InputError(f"the batch has no '{key}' (it has: {', '.join(batch) or 'nothing'}); see jaxbp.batch(x, y)")
    return batch[key]


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating-point arrays in another dtype."""
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def floating(x: jax.Array) -> jax.Array:
    """x itself. Raises InputError where it is not of floating-point numbers: an integer result would be cut off."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise InputError(f"the array must be of floating-point numbers, got {x.dtype}{list(x.shape)}; use astype")
    return x


def wide(x: jax.Array) -> jax.Array:
    """x in at least float32. Raises InputError where it is not of floating-point numbers."""
    return floating(x).astype(np.promote_types(x.dtype, np.float32))


def add(tree: PyTree, other: PyTree) -> PyTree:
    """The sum of two equal trees, leaf by leaf."""
    return jax.tree.map(jnp.add, tree, other)


def dot(a: PyTree, b: PyTree) -> jax.Array:
    """The inner product of two equal trees, summed over their leaves; 0 where they have none."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), jnp.asarray(0.0))


def path_name(path: tuple) -> str:
    """'00_dense/w' of a JAX key path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
