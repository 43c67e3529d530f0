"""Composition: combinators are layers that know their children. Chain, Stack (a scan) and Graph; residual, parallel.

A combinator's backward is its sweep with the rule `gradient`; the sweep sends dy through the children in reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.core import (
    Case,
    Context,
    Layer,
    PyTree,
    add,
    call_text,
    inside,
    label,
    output_spec,
    part,
    register,
    require,
    shaped,
)
from jaxbp.errors import InputError, unknown
from jaxbp.layers import Add, Cell, Concatenate, Dense, Dropout, Flatten, Recurrent, Tanh
from jaxbp.layers.recurrent import near_root
from jaxbp.rules import gradient


class Combinator(Layer):
    """A layer made of layers."""

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        with jax.named_scope("backward"):
            return self.sweep(gradient, params, cache, dy)


@dataclass(frozen=True, init=False)
class Chain(Combinator):
    """y = f_L(... f_2(f_1(x))), and back again: delta_l-1 = f_l.backward(delta_l).

    Chain(Dense(8), Tanh()) and Chain([Dense(8), Tanh()]) are the same object; no layers at all are the identity.
    Raises InputError for a child that is not a layer.
    """

    layers: tuple[Layer, ...]

    def __init__(self, *children: Layer | Iterable[Layer], layers: Iterable[Layer] = ()) -> None:
        entries = children[0] if len(children) == 1 and isinstance(children[0], Iterable) else children
        object.__setattr__(self, "layers", (*entries, *layers))
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise InputError(f"Chain: {layer!r} is not a layer")

    def __repr__(self) -> str:
        return call_text(type(self).__qualname__, [repr(layer) for layer in self.layers])

    def named(self) -> list[tuple[int, str, Layer]]:
        """(index, name in the parameter tree, layer) in forward order."""
        digits = max(2, len(str(len(self.layers) - 1)))
        return [(i, f"{i:0{digits}d}_{label(layer)}", layer) for i, layer in enumerate(self.layers)]

    def _with_specs(self, spec: PyTree) -> Iterator[tuple[int, str, Layer, PyTree]]:
        """`named`, with the spec of each layer's input."""
        for i, name, layer in self.named():
            yield i, name, layer, spec
            with inside(name, input=spec):
                spec = output_spec(layer, spec)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        params = {}
        for i, name, layer, x in self._with_specs(spec):
            with inside(name, input=x):
                params[name] = layer.init(jax.random.fold_in(key, i), x)
        return params

    def init_state(self, spec: PyTree) -> PyTree:
        return {name: layer.init_state(x) for _, name, layer, x in self._with_specs(spec)}

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        cache = {}
        for i, name, layer in self.named():
            own = part(params, name)
            with inside(name, input=x, parameters=own):
                x, cache[name] = layer.forward(own, x, ctx.child(i, name))
        return x, cache

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return {name: layer.next_state(state[name], cache[name]) for _, name, layer in self.named()}

    def sweep(self, rule: Callable, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        outputs = {}
        for _, name, layer in reversed(self.named()):
            own = part(params, name)
            with inside(name, delta=dy, parameters=own):
                dy, outputs[name] = layer.sweep(rule, own, cache[name], dy)
        return dy, outputs

    def map(self, f: Callable[[Layer], Layer]) -> Chain:
        return Chain(tuple(f(layer) for layer in self.layers))

    @classmethod
    def cases(cls) -> list[Case]:
        return [
            Case(Chain((Flatten(), Dense(7), Tanh(), Dropout(0.3), Dense(2))), shaped(5, 3, 2)),
            Case(Chain(()), shaped(5, 3), name="empty"),
        ]


@partial(register, data_fields=["x", "ctx", "next_states"], meta_fields=[])
@dataclass(frozen=True)
class Recomputed:
    """What a group of a Stack keeps: its input, what its forward needs to run again, and its blocks' next states."""

    x: PyTree
    ctx: Context  # with a key and a state for each block
    next_states: PyTree


@dataclass(frozen=True)
class Stack(Combinator):
    """`depth` equal blocks with outputs like their inputs: one scan forward, one reverse scan back, compiled once.

    keep chooses what is stored between the passes. "all": every block's cache. "input": every block's input; its
    forward runs again inside the reverse scan. "sqrt": the input of every group of about sqrt(depth) blocks (the
    divisor of depth nearest to it; Chen et al. 2016, arXiv 1604.06174). The CPU compiler would undo a recomputation
    outside of a scan. depth is at least 1.
    """

    block: Layer
    depth: int
    keep: Literal["all", "input", "sqrt"] = "all"

    def __post_init__(self) -> None:
        require(self, "depth", self.depth >= 1, "at least 1")
        if self.keep not in ("all", "input", "sqrt"):
            raise unknown("Stack keep", self.keep, ("all", "input", "sqrt"))

    def _group(self) -> int:
        """How many blocks a group has. Their caches exist only while the group's backward runs."""
        return 1 if self.keep == "input" else near_root(self.depth, range(1, self.depth + 1))

    def _grouped(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.reshape(-1, self._group(), *a.shape[1:]), tree)

    def _flat(self, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.reshape(self.depth, *a.shape[2:]), tree)

    def _scan(self, params: PyTree, x: PyTree, ctx: Context, blocks: int) -> tuple[PyTree, PyTree]:
        """The forward passes of `blocks` blocks; ctx has a key and a state for each."""

        def step(x: PyTree, block: PyTree) -> tuple[PyTree, PyTree]:
            params, key, state = block
            return self.block.forward(params, x, replace(ctx, key=key, state=state))

        return jax.lax.scan(step, x, (params, ctx.key, ctx.state), blocks)

    def _scan_back(
        self, rule: Callable, params: PyTree, cache: PyTree, dy: PyTree, blocks: int
    ) -> tuple[PyTree, PyTree]:
        def step(dy: PyTree, block: PyTree) -> tuple[PyTree, PyTree]:
            params, cache = block
            return self.block.sweep(rule, params, cache, dy)

        return jax.lax.scan(step, dy, (params, cache), blocks, reverse=True)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return jax.vmap(lambda k: self.block.init(k, spec))(jax.random.split(key, self.depth))

    def init_state(self, spec: PyTree) -> PyTree:
        return jax.tree.map(lambda s: jnp.stack([s] * self.depth), self.block.init_state(spec))

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        keys = None if ctx.key is None else jax.random.split(ctx.key, self.depth)  # no two blocks share a mask
        if self.keep == "all":
            return self._scan(params, x, replace(ctx, key=keys), self.depth)

        def group(x: PyTree, blocks: PyTree) -> tuple[PyTree, PyTree]:
            params, keys, states = blocks
            inner = replace(ctx, key=keys, state=states)
            y, cache = self._scan(params, x, inner, self._group())
            next_states = None if states is None else jax.vmap(self.block.next_state)(states, cache)
            return y, Recomputed(x, inner, next_states)

        return jax.lax.scan(group, x, self._grouped((params, keys, ctx.state)), self.depth // self._group())

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return jax.vmap(self.block.next_state)(state, cache) if self.keep == "all" else self._flat(cache.next_states)

    def sweep(self, rule: Callable, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        if self.keep == "all":
            return self._scan_back(rule, params, cache, dy, self.depth)

        def group(dy: PyTree, blocks: PyTree) -> tuple[PyTree, PyTree]:
            params, start = blocks
            _, cache = self._scan(params, start.x, start.ctx, self._group())
            return self._scan_back(rule, params, cache, dy, self._group())

        dx, outputs = jax.lax.scan(group, dy, (self._grouped(params), cache), reverse=True)
        return dx, self._flat(outputs)

    def map(self, f: Callable[[Layer], Layer]) -> Stack:
        return replace(self, block=f(self.block))

    @classmethod
    def cases(cls) -> list[Case]:
        block = Chain((Dense(3), Tanh(), Dropout(0.3)))
        return [Case(Stack(block, 4, keep), shaped(5, 3), name=keep) for keep in ("all", "input", "sqrt")]


@dataclass(frozen=True)
class Node:
    """A named layer of a Graph. `inputs` names earlier nodes or the graph's inputs: one name, or several for a tuple.

    `shares` names an earlier node whose parameters this node uses too (tied weights); their shapes must agree.
    """

    name: str
    layer: Layer
    inputs: Sequence[str]
    shares: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", names(self.inputs))

    @property
    def owner(self) -> str:
        """The node that holds this node's parameters."""
        return self.shares or self.name

    def gather(self, values: dict[str, PyTree]) -> PyTree:
        """This node's input, from the values of the nodes by name."""
        inputs = tuple(values[name] for name in self.inputs)
        return inputs if len(inputs) > 1 else inputs[0]


@dataclass(frozen=True)
class Graph(Combinator):
    """Any directed acyclic graph: nodes in topological order, the last one is the output.

    Back: the deltas that several nodes send to one value are added (the sum over posterior nodes), and so are the
    gradients of a parameter that several nodes share. With several `inputs`, x is a tuple of as many.
    Raises InputError for a name that is used before it is defined, defined twice, or never used.
    """

    nodes: Sequence[Node]
    inputs: Sequence[str] = ("x",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "inputs", names(self.inputs))
        if not self.nodes:
            raise InputError("Graph: at least one node is needed")
        known = list(self.inputs)
        used = {self.nodes[-1].name}
        owners: list[str] = []
        for node in self.nodes:
            if node.name in known:
                raise InputError(f"Graph: the name '{node.name}' is given twice")
            for name in node.inputs:
                if name not in known:
                    raise unknown(f"input of Graph node '{node.name}':", name, known)
            if node.shares is None:
                owners.append(node.name)
            elif node.shares not in owners:
                raise unknown(f"parameter owner of Graph node '{node.name}':", node.shares, owners)
            known.append(node.name)
            used.update(node.inputs)
        for name in known:
            if name not in used:
                raise InputError(f"Graph: nothing uses '{name}'")

    def _by_name(self, x: PyTree) -> dict[str, PyTree]:
        """{name: value} of the graph's inputs."""
        values = x if len(self.inputs) > 1 else (x,)
        if not isinstance(values, tuple | list) or len(values) != len(self.inputs):
            raise InputError(f"Graph: x must be a tuple of {len(self.inputs)} inputs: {', '.join(self.inputs)}")
        return dict(zip(self.inputs, values, strict=True))

    def _with_specs(self, spec: PyTree) -> Iterator[tuple[int, Node, PyTree]]:
        """(index, node, the spec of its input) in forward order."""
        specs = self._by_name(spec)
        for i, node in enumerate(self.nodes):
            x = node.gather(specs)
            yield i, node, x
            with inside(node.name, input=x):
                specs[node.name] = output_spec(node.layer, x)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        shapes = lambda tree: jax.tree.map(jnp.shape, tree)
        params: dict[str, PyTree] = {}
        for i, node, x in self._with_specs(spec):
            with inside(node.name, input=x):
                drawn = node.layer.init(jax.random.fold_in(key, i), x)
            owned = params.setdefault(node.owner, drawn)
            if shapes(owned) != shapes(drawn):
                raise InputError(
                    f"Graph: '{node.name}' cannot share the parameters of '{node.shares}': "
                    f"it needs the shapes {shapes(drawn)}, and those are {shapes(owned)}"
                )
        return params

    def init_state(self, spec: PyTree) -> PyTree:
        return {node.name: node.layer.init_state(x) for _, node, x in self._with_specs(spec)}

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        values = self._by_name(x)
        cache = {}
        for i, node in enumerate(self.nodes):
            x = node.gather(values)
            own = part(params, node.owner)
            with inside(node.name, input=x, parameters=own):
                values[node.name], cache[node.name] = node.layer.forward(own, x, ctx.child(i, node.name))
        return values[self.nodes[-1].name], cache

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return {node.name: node.layer.next_state(state[node.name], cache[node.name]) for node in self.nodes}

    def sweep(self, rule: Callable, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        merge = getattr(rule, "merge", None)
        deltas: dict[str, PyTree] = {self.nodes[-1].name: dy}
        outputs: dict[str, PyTree] = {}
        for node in reversed(self.nodes):
            dy = deltas.pop(node.name)
            own = part(params, node.owner)
            with inside(node.name, delta=dy, parameters=own):
                dx, output = node.layer.sweep(rule, own, cache[node.name], dy)
            for name, d in zip(node.inputs, dx if len(node.inputs) > 1 else (dx,), strict=True):
                deltas[name] = add(deltas[name], d) if name in deltas else d
            name = node.owner if merge else node.name
            outputs[name] = merge(outputs[name], output) if merge and name in outputs else output
        dx = tuple(deltas[name] for name in self.inputs)
        return dx if len(dx) > 1 else dx[0], outputs

    def map(self, f: Callable[[Layer], Layer]) -> Graph:
        return replace(self, nodes=tuple(replace(node, layer=f(node.layer)) for node in self.nodes))

    @classmethod
    def cases(cls) -> list[Case]:
        tied = (
            Node("first", Dense(3), ("x",)),
            Node("bend", Tanh(), ("first",)),
            Node("again", Dense(3), ("bend",), shares="first"),
            Node("sum", Add(), ("again", "first", "x")),
        )
        two = (
            Node("left", Dense(7), ("a",)),
            Node("right", Dense(2), ("b",)),
            Node("both", Concatenate(), ("left", "right", "left")),
        )
        return [
            Case(Graph(tied), shaped(5, 3), name="tied"),
            Case(Graph(two, ("a", "b")), (shaped(5, 3), shaped(5, 2)), name="two_inputs"),
            Case(residual(Chain((Dense(3), Tanh()))), shaped(5, 3), name="residual"),
            Case(parallel(Dense(7), Chain((Dense(2), Tanh()))), shaped(5, 3), name="parallel"),
        ]


def names(inputs: Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (inputs,) if isinstance(inputs, str) else tuple(inputs)


def residual(body: Layer, shortcut: Layer | None = None) -> Graph:
    """y = body(x) + x, or body(x) + shortcut(x). Back: the delta goes both ways and the two results are added."""
    ahead = () if shortcut is None else (Node("shortcut", shortcut, ("x",)),)
    skip = "x" if shortcut is None else "shortcut"
    return Graph((Node("body", body, ("x",)), *ahead, Node("sum", Add(), ("body", skip))))


def parallel(*branches: Layer, join: Layer = Concatenate()) -> Graph:
    """Every branch sees x; `join` (Concatenate or Add) makes one output of all of theirs."""
    if not branches:
        raise InputError("parallel: at least one branch is needed")
    nodes = tuple(Node(f"branch{i}", branch, ("x",)) for i, branch in enumerate(branches))
    return Graph((*nodes, Node("join", join, tuple(node.name for node in nodes))))


def bidirectional(
    cell: Cell,
    *,
    output: Literal["sequence", "last"] = "sequence",
    keep: Literal["all", "states", "sqrt"] = "all",
    initial: Literal["zeros", "learned"] = "zeros",
    truncate: int | None = None,
) -> Graph:
    """A cell in both directions, outputs side by side [N, T, 2 H] or [N, 2 H]; the settings are those of Recurrent."""
    forward = Recurrent(cell, output=output, keep=keep, initial=initial, truncate=truncate)
    return parallel(forward, replace(forward, reverse=True))
