"""Parameters that are split among devices, as a layer around every leaf layer (fully sharded data parallelism).

    forward    w = all_gather(part of w)                 the layer's own forward with w
    backward   w = all_gather(part of w)                 the layer's own backward with w
               part of dw = psum_scatter(dw)             the sum over the devices, of which each keeps its part

No device holds more than one layer's parameters whole (Rajbhandari et al. 2020, arXiv 1910.02054, stage 3). Inside a
Stack the leaf layer is in the scan's body, and so are its gathers. Costs two gathers and one scatter a layer and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax

from jaxbp.core import Context, PyTree, register
from jaxbp.wrappers import Wrapper

AXIS = "fsdp"


@partial(register, data_fields=["value"], meta_fields=["dimension"])
@dataclass(frozen=True)
class Shard:
    """This device's part of an array.

    dimension: the one that is split, counted from the end (so that it is the same within a scan over blocks); None:
    every device has the whole array.
    """

    value: jax.Array
    dimension: int | None

    def gather(self) -> jax.Array:
        """The whole array."""
        if self.dimension is None:
            return self.value
        return jax.lax.all_gather(self.value, AXIS, axis=self.value.ndim + self.dimension, tiled=True)

    def scatter(self, grad: jax.Array) -> Shard:
        """This device's part of the sum of the devices' gradients; where the array is not split, its own gradient."""
        if self.dimension is None:
            return Shard(grad, None)
        dimension = grad.ndim + self.dimension
        return Shard(jax.lax.psum_scatter(grad, AXIS, scatter_dimension=dimension, tiled=True), self.dimension)


def is_shard(node: object) -> bool:
    """Whether a node of a tree is a Shard."""
    return isinstance(node, Shard)


def split_dimension(shape: tuple[int, ...], parts: int) -> int | None:
    """The largest dimension that `parts` divide, the last of equal ones, counted from the end; None: there is none."""
    fitting = [i - len(shape) for i, size in enumerate(shape) if size % parts == 0]
    return max(fitting, key=lambda i: (shape[i], i), default=None) if parts > 1 else None


@dataclass(frozen=True)
class Gathered(Wrapper):
    """`inner`, whose parameters are Shards: `parts` devices along the mesh axis "fsdp" have one each.

    init gives whole arrays as Shards, and forward takes such where no axes split the batch. With axes, and in backward,
    it is called inside jax.shard_map.
    """

    parts: int

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        split = lambda leaf: Shard(leaf, split_dimension(leaf.shape, self.parts))
        return jax.tree.map(split, self.inner.init(key, spec))

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        whole = Shard.gather if ctx.axes else lambda shard: shard.value
        return self.inner.forward(jax.tree.map(whole, params, is_leaf=is_shard), x, ctx)

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        dx, grads = self.inner.backward(jax.tree.map(Shard.gather, params, is_leaf=is_shard), cache, dy)
        return dx, jax.tree.map(Shard.scatter, params, grads, is_leaf=is_shard)

    def next_state(self, state: PyTree, cache: PyTree) -> PyTree:
        return self.inner.next_state(state, cache)
