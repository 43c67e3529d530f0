"""Where the arrays of a run lie on a mesh, and the gradient of a batch that its devices share.

Each device has its rows of the batch. Forward pass, loss and sweep are its own, inside jax.shard_map, so layers see
local shapes. The weights of the items were made for the whole batch, so the sum of the devices' gradients is the
batch's gradient. It is taken once, after the sweep and after all micro-batches, with the loss in the same all-reduce.
Differentiating through the compiler's own partition would sum layer by layer, and again in every micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, map_leaves
from jaxbp.data import Dataset
from jaxbp.devices.gathered import AXIS, Gathered, Shard, is_shard
from jaxbp.devices.mesh import AXES, check_batch, row_parts
from jaxbp.devices.tensor import TENSOR, UNCUT, alone, shared
from jaxbp.errors import InputError
from jaxbp.losses import Loss

ROWS = PartitionSpec(AXES)  # of arrays [N, ...]
STEPS = PartitionSpec(None, AXES)  # of arrays [steps, N, ...]
WHOLE = PartitionSpec()


@dataclass(frozen=True)
class Placement:
    """Where a run's arrays lie."""

    mesh: jax.sharding.Mesh
    model: Layer  # its leaf layers gather their parameters
    shards: PyTree  # like the model's parameters: Shards of their specs
    states: PyTree  # like the model's state: the dimension of each leaf that counts rows; -1: none
    micro_batches: int = 1

    @classmethod
    def of(
        cls,
        mesh: jax.sharding.Mesh,
        model: Layer,
        loss: Loss,
        spec: PyTree,
        micro_batches: int = 1,
        classes: bool = True,
    ) -> Placement:
        """The placement of a model on batches of inputs like `spec`; classes: whether the targets are integers."""
        tensor = mesh.shape.get(TENSOR, 1)
        whole = loss.prepared(model) if tensor == 1 else shared(model, loss, tensor, mesh.size, classes)
        gathering = map_leaves(whole, lambda leaf: Gathered(leaf, mesh.shape[AXIS]))
        shards = jax.eval_shape(lambda key: gathering.init(key, spec), jax.random.key(0))
        return cls(mesh, gathering, shards, row_dimensions(model, spec), micro_batches)

    @property
    def row_parts(self) -> int:
        """How many parts a batch has, each on one device or shared by those of the tensor axis."""
        return row_parts(self.mesh)

    @property
    def of_one_device(self) -> Layer:
        """The model as one device has it, to count what it keeps."""
        return alone(map_leaves(self.model, lambda leaf: leaf.inner if isinstance(leaf, Gathered) else leaf))

    @property
    def params_specs(self) -> PyTree:
        """The parameters' PartitionSpecs, in a plain tree."""
        return jax.tree.map(shard_spec, self.shards, is_leaf=is_shard)

    @property
    def state_specs(self) -> PyTree:
        """The PartitionSpecs of the model's state."""
        return jax.tree.map(lambda i: WHOLE if i < 0 else PartitionSpec(*[None] * i, AXES), self.states)

    @property
    def everywhere(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, WHOLE)

    def shardings(self, tree: PyTree) -> PyTree:
        """Like `tree`, arrays or specs: where each lies.

        What ends in the path of a parameter and has its shape, as an optimizer's moments do, lies as the parameter; the
        same holds for the model's state.
        """

        def sharding(leaf: Any, shard: Shard) -> NamedSharding:
            return NamedSharding(self.mesh, shard_spec(shard))

        return self.map_shards(sharding, tree)

    def map_shards(self, f: Callable[[Any, Shard], Any], tree: PyTree) -> PyTree:
        """f(leaf, the Shard of the parameter that it lies as); what lies as none is whole."""
        known = {keys(path): shard for path, shard in shards_by_path(self.shards)}

        def mapped(path: tuple[Any, ...], leaf: Any) -> Any:
            names = keys(path)
            for start in range(len(names)):
                shard = known.get(names[start:])
                if shard is not None and shard.value.shape == leaf.shape:
                    return f(leaf, shard)
            return f(leaf, Shard(leaf, None))

        return jax.tree_util.tree_map_with_path(mapped, tree)

    def arranged(self, tree: PyTree, back: bool = False) -> PyTree:
        """The arrays with the entries of each device of the tensor axis side by side; back: in their own order.

        So a device has whole heads of queries, keys and values, which lie behind one another in one array.
        """

        def arrange(leaf: Any, shard: Shard) -> Any:
            order = shard.order(self.mesh.shape.get(TENSOR, 1))
            if order is None:
                return leaf
            take = jnp.take if isinstance(leaf, jax.Array) else np.take
            return take(leaf, np.argsort(order) if back else order, shard.cut.dimension)

        return self.map_shards(arrange, tree)

    def begun(self, state: Any) -> Any:
        """The state before the first step, made as on one device, as the mesh has it."""
        if TENSOR not in self.mesh.shape:
            return state
        self.check_optimizer(state.optimizer)
        return jax.jit(self.arranged, out_shardings=self.state_shardings(state))(state)

    def state_shardings(self, state: Any) -> Any:
        """Like a State of a run, arrays or specs: where each of its arrays lies."""
        model = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), self.state_specs, is_leaf=is_spec)
        return replace(self.shardings(state), model=model)

    def settled(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step` with a state whose arrays lie where they lay before it."""
        return lambda state, batch: jax.lax.with_sharding_constraint(step(state, batch), self.state_shardings(state))

    def whole(self, optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
        """`optimizer` with whole parameters on every device: they share what it asks of the batch.

        In jax 0.10.2 the compiler's own partition writes wrong numbers where a flat vector of split parameters has an
        entry changed, as searches do.
        """
        gathered = lambda tree: jax.lax.with_sharding_constraint(tree, self.everywhere)

        def update(grads: PyTree, state: PyTree, params: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
            return gathered(optimizer.update(*gathered((grads, state, params)), **extra))

        return optax.GradientTransformationExtraArgs(optimizer.init, update)

    def check_optimizer(self, kept: PyTree) -> None:
        """Raises InputError where an optimizer keeps arrays in which the entries of a device cannot be told."""
        shapes = {keys(path): s.value.shape for path, s in shards_by_path(self.shards) if len(s.cut.groups) > 1}
        for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
            for start in range(len(path)):
                name = keys(path)[start:]
                if leaf.size > 1 and leaf.shape != shapes.get(name, leaf.shape):
                    raise InputError(
                        f"run.mesh.tensor: the optimizer keeps {list(leaf.shape)} of {'/'.join(name)} "
                        f"{list(shapes[name])}; it must keep arrays of the parameters' shapes, as Adam does"
                    )

    def put(self, tree: PyTree, shardings: PyTree) -> PyTree:
        """Arrays that every process holds whole, on the mesh."""

        def put_leaf(leaf: Any, sharding: NamedSharding) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put_leaf(jax.random.key_data(leaf), sharding))
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(put_leaf, tree, shardings)

    def placed(self, arrays: dict[str, Any], state: Any) -> dict[str, Any]:
        """What a checkpoint holds, {"state", "best"}, on the mesh where the arrays of `state` lie."""
        shardings = self.state_shardings(state)
        best = None if arrays["best"] is None else shardings.weights
        return self.put(self.arranged(arrays), {"state": shardings, "best": best})

    def fetched(self, tree: PyTree) -> PyTree:
        """The tree with whole arrays, in the host's memory; random keys stay as they are. All processes take part."""
        whole = jax.jit(lambda leaf: leaf, out_shardings=self.everywhere)

        def fetch(leaf: jax.Array) -> Any:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(fetch(jax.random.key_data(leaf)))
            return np.asarray(whole(leaf).addressable_data(0))

        return self.arranged(jax.tree.map(fetch, tree), back=True)

    # --- the gradient -------------------------------------------------------------------------------------------------

    def gradient(self, gradient: Callable[..., Result]) -> Callable[..., Result]:
        """The gradient of a batch that the devices share, from that of one device's rows; no output is kept.

        `gradient` is a value_and_grad of this placement's `model`, over micro-batches where there are some. The batch
        has a weight for each item.
        """

        def local(params: PyTree, batch: Batch, key: Any, state: PyTree) -> tuple[jax.Array, PyTree, PyTree]:
            result = gradient(self._shards_of(params), batch, Context(key, state, axes=AXES))
            value, grads = self.summed(result.value, result.grads)
            return value, jax.tree.map(lambda shard: shard.value, grads, is_leaf=is_shard), result.state

        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            whole = jax.shard_map(
                local,
                mesh=self.mesh,
                in_specs=(self.params_specs, ROWS, WHOLE, self.state_specs),
                out_specs=(WHOLE, self.params_specs, self.state_specs),
                check_vma=False,  # a layer's loop may begin with zeros, which vary over no axis
            )
            return Result(*whole(params, batch, ctx.key, ctx.state), None)

        return run

    def sums(self, sums: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """The compiled sums(params, state, *arrays [chunks, N, ...]) of this `model`, over all devices' rows."""

        def local(params: PyTree, state: PyTree, arrays: tuple[PyTree, ...]) -> PyTree:
            return jax.lax.psum(sums(self._shards_of(params), state, *arrays), AXES)

        specs = (self.params_specs, self.state_specs, STEPS)
        whole = jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=WHOLE, check_vma=False)
        compiled = jax.jit(whole)
        return lambda params, state, *arrays: compiled(params, state, arrays)

    def _shards_of(self, params: PyTree) -> PyTree:
        """One device's parts of the parameters, as this `model` takes them."""
        return jax.tree.unflatten(jax.tree.structure(self.shards), jax.tree.leaves(params))

    def summed(self, value: jax.Array, grads: PyTree) -> tuple[jax.Array, PyTree]:
        """Value and gradients summed over the devices; what is split by fsdp was summed over that axis already."""
        shards, tree = jax.tree.flatten(grads, is_leaf=is_shard)
        split = [shard.value for shard in shards if shard.dimension is not None]
        others = [shard.value for shard in shards if shard.dimension is None]
        if self.row_parts > 1:
            value, others = jax.lax.psum((value, others), AXES)
        if self.mesh.shape["data"] > 1:
            split = jax.lax.psum(split, "data")
        values = {True: iter(split), False: iter(others)}
        whole = [replace(shard, value=next(values[shard.dimension is not None])) for shard in shards]
        return value, jax.tree.unflatten(tree, whole)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def by_device(self, rows: np.ndarray) -> np.ndarray:
        """The rows [..., N] of batches in the order of the devices that compute them.

        Each micro-batch is a run of rows, and every device has its part of each.
        """
        parts = rows.reshape(*rows.shape[:-1], self.micro_batches, self.row_parts, -1)
        return np.swapaxes(parts, -3, -2).reshape(rows.shape)

    def augment(self, augment: Callable[[jax.Array, PyTree], PyTree]) -> Callable[[jax.Array, PyTree], PyTree]:
        """`augment` of rows that are in the order of the devices: each gets what it gets on one device."""
        if self.micro_batches == 1:
            return augment

        def swapped(x: PyTree, first: int, second: int) -> PyTree:
            swap = lambda a: jnp.swapaxes(a.reshape(first, second, -1, *a.shape[1:]), 0, 1).reshape(a.shape)
            return jax.tree.map(swap, x)

        def moved(key: jax.Array, x: PyTree) -> PyTree:
            in_order = swapped(x, self.row_parts, self.micro_batches)
            return swapped(augment(key, in_order), self.micro_batches, self.row_parts)

        return moved


def shard_spec(shard: Shard) -> PartitionSpec:
    """How an array is split."""
    axes: list[tuple[str, ...]] = [()] * len(shard.value.shape)
    if shard.cut != UNCUT:
        axes[shard.cut.dimension] = (TENSOR,)
    if shard.dimension is not None:
        axes[shard.dimension] += (AXIS,)
    while axes and not axes[-1]:
        axes.pop()
    return PartitionSpec(*(names or None for names in axes))


def shards_by_path(shards: PyTree) -> list[tuple[tuple[Any, ...], Shard]]:
    """The Shards of a tree, each with its path."""
    return jax.tree_util.tree_leaves_with_path(shards, is_leaf=is_shard)


def is_spec(node: object) -> bool:
    """Whether a node of a tree is a PartitionSpec."""
    return isinstance(node, PartitionSpec)


def keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names along a path of a tree."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def row_dimensions(model: Layer, spec: PyTree) -> PyTree:
    """Like the model's state: the dimension of each leaf that has as many entries as a batch has rows; -1: none."""
    twice = jax.tree.map(lambda s: jax.ShapeDtypeStruct((2 * s.shape[0], *s.shape[1:]), s.dtype), spec)
    small, large = (jax.eval_shape(lambda s=s: model.init_state(s)) for s in (spec, twice))
    changed = lambda a, b: next((i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n), -1)
    return jax.tree.map(changed, small, large)


def placed(config: Any, model: Layer, spec: PyTree, part: Dataset) -> Placement | None:
    """The placement of a run on the mesh of its config; None on one device.

    spec: one batch of inputs; part: that is trained on. Raises InputError where mesh, devices, batch, model and
    optimizer do not fit together.
    """
    run = config.run
    mesh = run.mesh.build()
    if mesh is None:
        return None
    check_batch(mesh, spec.shape[0], run.micro_batches, len(part))
    of_whole_parameters = {
        type(config.optimizer).__name__: not config.optimizer.gradient_alone,
        "run.noise_scale_every": run.noise_scale_every is not None,
        "run.health_every": run.health_every is not None,
        "a credit rule or optimizer.private": not config.is_plain,
    }
    for name in [name for name, asked in of_whole_parameters.items() if asked and TENSOR in mesh.shape]:
        raise InputError(f"{name} needs whole parameters: run.mesh.tensor must be 1 with it")
    classes = np.issubdtype(part.y.dtype, np.integer)
    return Placement.of(mesh, model, config.loss, spec, run.micro_batches if config.is_plain else 1, classes)
