"""Parameters that are split among devices, as a layer around every leaf layer (fully sharded data parallelism).

    forward    w = all_gather(part of w)                 the layer's own forward with w
    backward   w = all_gather(part of w)                 the layer's own backward with w
               part of dw = psum_scatter(dw)             the sum over the devices, of which each keeps its part

No device holds more than one layer's parameters whole (Rajbhandari et al. 2020, arXiv 1910.02054, stage 3). Inside a
Stack the leaf layer is in the scan's body, and so are its gathers. Costs two gathers and one scatter a layer and step.

Where devices share a layer by a letter (jaxbp.devices.tensor), w is the part of this device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np

from jaxbp.core import Context, PyTree, register
from jaxbp.devices.tensor import UNCUT, Cut, Split
from jaxbp.wrappers import Wrapper

AXIS = "fsdp"


@partial(register, data_fields=["value"], meta_fields=["dimension", "cut"])
@dataclass(frozen=True)
class Shard:
    """This device's part of an array.

    dimension: the one that fsdp splits, counted from the end (so that it is the same within a scan over blocks); None:
    none. cut: how the devices of the tensor axis share the array.
    """

    value: jax.Array
    dimension: int | None
    cut: Cut = UNCUT

    def gather(self) -> jax.Array:
        """The array whole, or this device's part along the tensor axis."""
        if self.dimension is None:
            return self.value
        return jax.lax.all_gather(self.value, AXIS, axis=self.value.ndim + self.dimension, tiled=True)

    def scatter(self, grad: jax.Array) -> Shard:
        """This device's part of the sum of the devices' gradients; where fsdp does not split, its own gradient."""
        if self.dimension is None:
            return replace(self, value=grad)
        dimension = grad.ndim + self.dimension
        return replace(self, value=jax.lax.psum_scatter(grad, AXIS, scatter_dimension=dimension, tiled=True))

    def order(self, parts: int) -> np.ndarray | None:
        """The entries along the cut in the order in which they lie on so many devices; None: that of the array."""
        if len(self.cut.groups) < 2:
            return None
        size = self.value.shape[self.cut.dimension]
        ends = np.cumsum(self.cut.groups) * size // sum(self.cut.groups)
        kinds = [np.split(kind, parts) for kind in np.split(np.arange(size), ends[:-1])]
        return np.concatenate([kind[part] for part in range(parts) for kind in kinds])


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
        params = self.inner.init(key, spec)
        if not isinstance(self.inner, Split):
            return jax.tree.map(lambda leaf: Shard(leaf, split_dimension(leaf.shape, self.parts)), params)
        tensor = self.inner.parts

        def shard(leaf: jax.Array, cut: Cut) -> Shard:
            shape = list(leaf.shape)
            if cut != UNCUT:
                shape[cut.dimension] //= tensor
            return Shard(leaf, split_dimension(tuple(shape), self.parts), cut)

        return jax.tree.map(shard, params, self.inner.cuts(params))

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, PyTree]:
        whole = Shard.gather if ctx.axes else lambda shard: shard.value
        return self.inner.forward(jax.tree.map(whole, params, is_leaf=is_shard), x, ctx)

    def backward(self, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        dx, grads = self.inner.backward(jax.tree.map(Shard.gather, params, is_leaf=is_shard), cache, dy)
        return dx, jax.tree.map(Shard.scatter, params, grads, is_leaf=is_shard)
