"""Layers that several devices share by a letter of their einsums (tensor parallelism), as layers around leaf layers.

    forward   y = psum of the parts of y, where the output lacks the letter; else each device has its own entries
    backward  dx = psum of the parts of dx, where the input lacks the letter; else each device has its own entries

(Shoeybi et al. 2019, arXiv 1909.08053: two all-reduces forward and two backward in a block of a transformer.) In
between every device runs the layer's own passes on its part of the parameters. What is not split and is added, as the
bias of a layer whose parts are summed, counts on the first device alone.

What is split: attention by heads, an embedding by rows, the last dense layer of a model with a softmax loss by classes,
and two dense layers with nothing but entry-wise layers between them by the units between them. The rest is whole on
every device. Numbers of classes come with the data: where the devices do not divide them, those layers are whole too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.compose import Chain, Graph
from jaxbp.core import Context, Layer, PyTree, leaf_layers, map_leaves, path_name
from jaxbp.deferred import Defer, deferred
from jaxbp.errors import InputError
from jaxbp.layers import Attention, Dense, Embedding
from jaxbp.letters import Letters
from jaxbp.losses import Loss, SoftmaxCrossEntropy
from jaxbp.wrappers import Wrapper

TENSOR = "tensor"


class Cut(NamedTuple):
    """How devices share an array: the dimension, from the end, and the proportions of what lies side by side in it."""

    dimension: int
    groups: tuple[int, ...]


UNCUT = Cut(0, ())  # a leaf of a tree, as None is not


@dataclass(frozen=True)
class Split(Wrapper):
    """`inner`, whose entries of `letter` `parts` devices along the mesh axis "tensor" share.

    init gives whole arrays, and forward takes such where no axes split the batch. With axes, and in backward, it is
    called inside jax.shard_map with this device's parts.
    """

    letter: str
    parts: int

    @property
    def letters(self) -> Letters:
        """Those of the layer inside."""
        return self.inner.letters

    def cuts(self, params: PyTree) -> PyTree:
        """Like the parameters: a Cut of each."""

        def cut(path: tuple, leaf: jax.Array) -> Cut:
            name = path_name(path)
            letters = self.letters.params.get(name, "")
            if self.letter not in letters:
                return UNCUT
            return Cut(letters.index(self.letter) - len(letters), self.letters.groups.get(name, (1,)))

        return jax.tree_util.tree_map_with_path(cut, params)

    def own(self, params: PyTree, axis: str | None = TENSOR) -> Layer:
        """The layer that has this device's part of the parameters; axis: of the mesh, None: without the others."""
        if not isinstance(self.inner, Attention):
            return self.inner
        heads = self.inner.heads // self.parts
        key_heads = (self.inner.key_heads or self.inner.heads) // self.parts
        width = params["out"]["w"].shape[-1] // heads
        return replace(self.inner, heads=heads, key_heads=key_heads, width=width, axis=axis)

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        if not ctx.axes:
            return self.inner.forward(params, x, ctx)
        if self.letter == self.letters.output:
            return self.own(params).forward(params, x, replace(ctx, split=TENSOR))
        is_first = jax.lax.axis_index(TENSOR) == 0
        once = lambda leaf, cut: jnp.where(is_first, leaf, 0) if cut == UNCUT else leaf
        parts = jax.tree.map(once, params, self.cuts(params))
        y, cache = self.own(params).forward(parts, x, replace(ctx, split=TENSOR))
        return jax.lax.psum(y, TENSOR), cache

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        dx, grads = self.own(params).backward(params, cache, dy)
        return (dx if self.letter == self.letters.input else jax.lax.psum(dx, TENSOR)), grads


@dataclass(frozen=True)
class Part(Wrapper):
    """What one device has of a Split, standing alone without its sums over devices: what it holds can be counted."""

    inner: Split

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        params = self.inner.init(key, spec)
        if self.inner.letter == self.inner.letters.input:  # spec is that of this device's entries
            return params
        own = lambda leaf, cut: leaf if cut == UNCUT else jnp.split(leaf, self.inner.parts, cut.dimension)[0]
        return jax.tree.map(own, params, self.inner.cuts(params))

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        return self.inner.own(params, None).forward(params, x, ctx)

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        return self.inner.own(params, None).backward(params, cache, dy)


def alone(model: Layer) -> Layer:
    """The model as one device has it."""
    return map_leaves(model, lambda leaf: Part(leaf) if isinstance(leaf, Split) else leaf)


def shared(model: Layer, loss: Loss, parts: int, devices: int, classes: bool) -> Layer:
    """The model that goes with the loss, with all of it split that can be.

    classes: whether the targets are integers. Raises InputError where nothing can be split, or where `parts` does not
    divide what it must, with the nearest number that does and divides `devices`.
    """
    sizes: list[int] = []
    split = inside(loss.prepared(model), parts, sizes)
    if wrong := [size for size in sizes if size % parts]:
        fitting = [n for n in range(1, devices + 1) if devices % n == 0 and not any(size % n for size in sizes)]
        nearest = min(fitting, key=lambda n: (abs(n - parts), n))
        raise InputError(
            f"run.mesh.tensor={parts} does not divide {wrong[0]}, which the model has of heads, or of units between "
            f"two dense layers; run.mesh.tensor={nearest} does"
        )
    if classes and isinstance(loss, SoftmaxCrossEntropy):
        split = with_head(split, parts)
    if not any(isinstance(leaf, Split) for leaf in leaf_layers(split)):
        raise InputError(
            f"run.mesh.tensor={parts}: the model has nothing that so many devices can share, such as attention, two "
            "dense layers in a row, or an embedding"
        )
    return split


def inside(layer: Layer, parts: int, sizes: list[int]) -> Layer:
    """The layer, split or with what is in it split; what `parts` must divide is appended to `sizes`.

    Layers that share parameters with others stay as they are.
    """
    letters = layer.letters
    if letters.inner:
        counts = letters.sizes[letters.inner]
        if isinstance(layer, Embedding):
            return layer if counts[0] % parts else Split(layer, letters.inner, parts)
        sizes += counts
        return Split(layer, letters.inner, parts)
    if isinstance(layer, Graph):
        tied = {node.shares for node in layer.nodes}
        nodes = [
            node if node.owner in tied else replace(node, layer=inside(node.layer, parts, sizes))
            for node in layer.nodes
        ]
        return replace(layer, nodes=nodes)
    mapped = layer.map(lambda child: inside(child, parts, sizes))
    return Chain(paired(mapped.layers, parts, sizes)) if isinstance(mapped, Chain) else mapped


def paired(layers: tuple[Layer, ...], parts: int, sizes: list[int]) -> list[Layer]:
    """The layers of a chain, with every two products split that only entry-wise layers stand between."""
    mixes = lambda layer: layer.letters.mixes and not isinstance(layer, Defer)
    split = list(layers)
    start = 0
    while start < len(layers):
        end = start + 1
        while end < len(layers) and layers[end].letters.passes:
            end += 1
        if end < len(layers) and mixes(layers[start]) and mixes(layers[end]):
            first, *between, last = layers[start : end + 1]
            sizes += first.letters.sizes[first.letters.output]
            split[start] = Split(first, first.letters.output, parts)
            split[start + 1 : end] = [Split(layer, layer.letters.output, parts) for layer in between]
            split[end] = Split(last, last.letters.input, parts)
            start = end
        start += 1
    return split


def with_head(model: Layer, parts: int) -> Layer:
    """The model with its last Dense put off and split by classes, and an embedding that is tied to it by rows.

    Where that cannot be, the model as it is.
    """
    try:
        put_off = deferred(model)
    except InputError:  # it does not end in a Dense that is whole
        return model
    head = next(leaf for leaf in leaf_layers(put_off) if isinstance(leaf, Defer) and isinstance(leaf.inner, Dense))
    if head.letters.sizes["O"][0] % parts:
        return model

    def split(layer: Layer) -> Layer:
        if layer == head:
            return Split(layer, "O", parts)
        if not isinstance(layer, Graph):
            return layer.map(split)
        owners = {node.shares for node in layer.nodes if node.layer == head}
        rows = lambda node: node.owner in owners and isinstance(node.layer, Embedding)
        return replace(
            layer,
            nodes=[
                replace(node, layer=Split(node.layer, "V", parts) if rows(node) else split(node.layer))
                for node in layer.nodes
            ],
        )

    return split(put_off)
