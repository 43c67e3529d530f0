"""What a step of a language model costs a device, on paper: memory, operations, traffic, before any device is there.

    python -m jaxbp.devices.cost

prints the tables of docs/scale.md. Parameters P, operations C and what the forward pass keeps come from the layers
themselves, by tracing them on shapes; U counts a parameter once for each layer that uses it. They are those of the
layers as one device of the tensor axis has them: norms, positions and biases that are added once are whole there. The
rest is a formula each, in `FORMULAS`, for a mesh of d x f x t devices: data, fsdp and tensor. The batch is split d f
ways, in m micro-batches one after the other. Parameters, their gradients and the optimizer's moments are split f ways.
A ring moves (n - 1) / n of an array for a gather or a scatter among n devices, and twice that for an all-reduce.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxbp.compose import Stack
from jaxbp.core import Context, Layer, PyTree, layers_in, map_leaves
from jaxbp.deferred import Defer
from jaxbp.devices.tensor import alone, shared
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import GPT
from jaxbp.summary import summary
from jaxbp.wrappers import Wrapper, computed_in

WORD = 4  # bytes of a parameter, of a gradient, and of each of Adam's two moments: float32
HALF = 2  # bytes of an activation: bfloat16


@dataclass(frozen=True)
class Device:
    """A kind of device: bytes of memory, operations a second in bfloat16, bytes a second to others.

    near: to the others of its node, `node` of them; far: to those of other nodes.
    """

    name: str
    memory: float
    speed: float
    near: float
    far: float
    node: int


H100 = Device("H100 SXM, NVLink inside nodes of 8, 400 Gb/s each between them", 80e9, 989e12, 450e9, 50e9, 8)


@dataclass(frozen=True)
class Size:
    """A model by name, and its sequences: `rows` in a batch, `length` tokens each."""

    name: str
    model: GPT
    rows: int
    length: int

    def counts(self, tensor: int) -> Counts:
        """What its layers count for one sequence, as one of `tensor` devices has them."""
        return counts_of(self.model, self.length, tensor)


@dataclass(frozen=True)
class Counts:
    """Of a batch, from the layers: numbers of parameters, operations of both passes, and bytes that are kept."""

    parameters: int
    used: int  # parameters, once for each layer that uses them: a tied table is gathered and scattered twice
    operations: int
    kept: int  # between the passes: with keep="input" the input of every block
    block: int  # while a block's backward runs, and its forward has run again


@lru_cache
def counts_of(model: GPT, length: int, tensor: int) -> Counts:
    """Those of a GPT whose blocks keep their inputs, computed in bfloat16, for one sequence."""
    spec = jax.ShapeDtypeStruct((1, length), "int32")
    whole = computed_in(model.build(), "bfloat16")
    loss = SoftmaxCrossEntropy(chunk=384)
    own = loss.prepared(whole) if tensor == 1 else alone(shared(whole, loss, tensor, tensor, classes=True))
    total = summary(map_leaves(own, with_logits), spec).total
    stack = next(layer for layer in layers_in(own) if isinstance(layer, Stack))
    x = jax.ShapeDtypeStruct((*spec.shape, model.width), "bfloat16")
    rows = model.outputs if model.outputs % tensor else model.outputs // tensor
    return Counts(
        total.parameters,
        total.parameters + (rows * model.width if model.head == "tied" else 0),
        total.forward + total.backward,
        activation_bytes(own, spec),
        activation_bytes(stack.block, x),
    )


def with_logits(leaf: Layer) -> Layer:
    """A last layer that was put off, applied; any other one as it is."""
    if isinstance(leaf, Defer):
        return leaf.inner
    return replace(leaf, inner=with_logits(leaf.inner)) if isinstance(leaf, Wrapper) else leaf


def activation_bytes(model: Layer, spec: PyTree, train: bool = True) -> int:
    """Bytes that a forward pass on inputs like `spec` keeps for the backward pass, parameters and inputs aside.

    An array that several layers keep counts once.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, spec)
    ctx = Context(key, jax.eval_shape(lambda: model.init_state(spec)), train)
    cache = lambda params, x, ctx: model.forward(params, x, ctx)[1]
    jaxpr = jax.make_jaxpr(cache)(params, spec, ctx).jaxpr
    arrays = {origin(jaxpr, variable): variable.aval for variable in jaxpr.outvars if not isinstance(variable, Literal)}
    inputs = set(jaxpr.invars)
    return sum(
        aval.size * aval.dtype.itemsize
        for source, aval in arrays.items()
        if source not in inputs and not jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)
    )


def origin(jaxpr: Any, variable: Any) -> Any:
    """What tells arrays of a traced program apart: two outputs of a loop that are one array inside it are one."""
    for eqn in jaxpr.eqns:
        if variable not in eqn.outvars:
            continue
        body = eqn.params.get("jaxpr")
        if body is None or eqn.primitive.name not in ("scan", "jit", "pjit"):
            return variable
        inner = body.jaxpr.outvars[eqn.outvars.index(variable)]
        return variable if isinstance(inner, Literal) else (id(eqn), origin(body.jaxpr, inner))
    return variable


@dataclass(frozen=True)
class Split:
    """A mesh, and the micro-batches of a step."""

    data: int
    fsdp: int
    tensor: int
    micro_batches: int = 1

    @property
    def devices(self) -> int:
        """Of the whole mesh."""
        return self.data * self.fsdp * self.tensor


FORMULAS = {
    "parameters": "4 P / f",
    "optimizer": "8 P / f",
    "gradients": "4 P / f, twice with micro-batches",
    "activations": "(kept + block) N / (d f m)",
    "operations": "C N / (d f)",
    "gathers": "2 m (f - 1) / f x 4 U",
    "scatters": "m (f - 1) / f x 4 U",
    "all-reduce": "2 (d - 1) / d x 4 P / f",
    "tensor": "2 (t - 1) / t x ((5 L + 2) 2 D + 12) N T / (d f)",
}


@dataclass(frozen=True)
class Cost:
    """What a step costs each device of a mesh: every property is a formula of FORMULAS."""

    size: Size
    split: Split

    @property
    def counts(self) -> Counts:
        """Of one sequence, on one device of the tensor axis."""
        return self.size.counts(self.split.tensor)

    @property
    def parameters(self) -> float:
        """Bytes."""
        return WORD * self.counts.parameters / self.split.fsdp

    @property
    def optimizer(self) -> float:
        """Bytes of Adam's two moments."""
        return 2 * self.parameters

    @property
    def gradients(self) -> float:
        """Bytes: the sum, and with micro-batches the part that is added to it."""
        return self.parameters * min(self.split.micro_batches, 2)

    @property
    def activations(self) -> float:
        """Bytes of one micro-batch."""
        rows = self.size.rows / (self.split.data * self.split.fsdp) / self.split.micro_batches
        return (self.counts.kept + self.counts.block) * rows

    @property
    def memory(self) -> float:
        """All of it."""
        return self.parameters + self.optimizer + self.gradients + self.activations

    @property
    def operations(self) -> float:
        """Of both passes, those that run again included."""
        return self.counts.operations * self.size.rows / (self.split.data * self.split.fsdp)

    @property
    def gathers(self) -> float:
        """Bytes received for parameters, forward and backward, in every micro-batch."""
        return 2 * self.split.micro_batches * ring(self.split.fsdp) * WORD * self.counts.used

    @property
    def scatters(self) -> float:
        """Bytes sent of gradients."""
        return self.gathers / 2

    @property
    def all_reduce(self) -> float:
        """Bytes sent of gradients, once a step."""
        return 2 * ring(self.split.data) * self.parameters

    @property
    def tensor(self) -> float:
        """Bytes sent for sums of activations: two a block forward, one where it runs again, and two backward.

        Besides of the embedding and of the head's delta, and three float32 numbers a token in the loss.
        """
        model = self.size.model
        tokens = self.size.rows * self.size.length / (self.split.data * self.split.fsdp)
        return 2 * ring(self.split.tensor) * ((5 * model.depth + 2) * HALF * model.width + 3 * WORD) * tokens

    def seconds(self, device: Device) -> tuple[float, float]:
        """(of the operations at full speed, of the traffic at full width), neither hidden behind the other."""
        reach = {"tensor": self.split.tensor, "fsdp": self.split.tensor * self.split.fsdp, "data": self.split.devices}
        width = {axis: device.near if count <= device.node else device.far for axis, count in reach.items()}
        sharded = (self.gathers + self.scatters) / width["fsdp"]
        return self.operations / device.speed, (
            self.tensor / width["tensor"] + sharded + self.all_reduce / width["data"]
        )


def ring(count: int) -> float:
    """The part of an array that a device of a ring of `count` passes on."""
    return (count - 1) / count


def splits(size: Size, devices: int, device: Device) -> Iterator[Split]:
    """The meshes of so many devices on which the batch divides: tensor inside a node, and a divisor of the heads."""
    powers = [2**i for i in range(devices.bit_length()) if devices % 2**i == 0]
    for tensor, fsdp in product(powers, powers):
        data, rest = divmod(devices, tensor * fsdp)
        if rest or tensor > device.node or size.model.heads % tensor or size.rows % (data * fsdp):
            continue
        micro_batches = 1
        while size.rows // (data * fsdp) % micro_batches == 0:
            yield Split(data, fsdp, tensor, micro_batches)
            micro_batches *= 2


def best(size: Size, devices: int, device: Device) -> Cost | None:
    """The fastest split that fits into the device's memory; None: none does."""
    fitting = [
        cost for split in splits(size, devices, device) if (cost := Cost(size, split)).memory <= 0.9 * device.memory
    ]
    return min(fitting, key=lambda cost: (sum(cost.seconds(device)), cost.split.micro_batches), default=None)


def gpt(name: str, width: int, depth: int, heads: int, length: int, rows: int) -> Size:
    """A GPT-2 of these sizes whose blocks keep their inputs, with its batch; 47 tokens more make the classes divide."""
    model = GPT(50_304, width, depth, heads, context=length, gelu="tanh", keep="input", head="tied")
    return Size(name, model, rows, length)


SIZES = (
    gpt("GPT-2, 124 million", 768, 12, 12, 1024, 4096),
    gpt("GPT-2 XL, 1.6 billion", 1600, 48, 25, 1024, 4096),
    gpt("6.7 billion", 4096, 32, 32, 2048, 2048),
    gpt("13 billion", 5120, 40, 40, 2048, 2048),
    gpt("30 billion", 7168, 48, 56, 2048, 2048),
    gpt("70 billion", 9216, 68, 72, 2048, 2048),
)
DEVICES = (8, 64, 512, 4096)


def tables(device: Device = H100) -> str:
    """The tables of docs/scale.md, in Markdown."""
    return "\n\n".join([model_table(), formula_table(), step_table(device), traffic_table(device)])


def model_table() -> str:
    """What the layers count, whole."""
    lines = ["| model | L | D | heads | T | parameters P | operations C | 6 P T | kept | block |", "|---" * 10 + "|"]
    for size in SIZES:
        counts = size.counts(1)
        lines.append(
            f"| {size.name} | {size.model.depth} | {size.model.width} | {size.model.heads} | {size.length} "
            f"| {counts.parameters:,} | {counts.operations:.3g} "
            f"| {6 * counts.parameters * size.length:.3g} | {text(counts.kept)} | {text(counts.block)} |"
        )
    return "\n".join(lines)


def formula_table() -> str:
    """The formulas."""
    return "\n".join(
        ["| of a device | formula |", "|---|---|", *(f"| {name} | `{f}` |" for name, f in FORMULAS.items())]
    )


def costs(device: Device) -> Iterator[tuple[Size, int, Cost | None]]:
    """The best split of every model on every number of devices."""
    for size, devices in product(SIZES, DEVICES):
        yield size, devices, best(size, devices, device)


def step_table(device: Device) -> str:
    """Memory and time of a step."""
    columns = "model | devices | d x f x t | m | parameters | optimizer | gradients | activations | all | operations"
    lines = [f"| {columns} | compute | traffic |", "|---" * 12 + "|"]
    for size, devices, cost in costs(device):
        if cost is None:
            lines.append(f"| {size.name} | {devices} | does not fit |" + " |" * 9)
            continue
        split = cost.split
        memory = (cost.parameters, cost.optimizer, cost.gradients, cost.activations, cost.memory)
        compute, traffic = cost.seconds(device)
        lines.append(
            f"| {size.name} | {devices} | {split.data} x {split.fsdp} x {split.tensor} | {split.micro_batches} | "
            f"{' | '.join(map(text, memory))} | {cost.operations:.3g} | {compute:.3g} s | {traffic:.3g} s |"
        )
    return "\n".join(lines)


def traffic_table(device: Device) -> str:
    """What goes between devices in a step."""
    lines = ["| model | devices | d x f x t | gathers | scatters | all-reduce | tensor |", "|---" * 7 + "|"]
    for size, devices, cost in costs(device):
        if cost is not None:
            split = cost.split
            moved = (cost.gathers, cost.scatters, cost.all_reduce, cost.tensor)
            mesh = f"{split.data} x {split.fsdp} x {split.tensor}"
            lines.append(f"| {size.name} | {devices} | {mesh} | {' | '.join(map(text, moved))} |")
    return "\n".join(lines)


def text(amount: float) -> str:
    """Bytes in three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{amount:.3g} {unit}"
        amount /= 1000
    raise AssertionError


if __name__ == "__main__":
    print(tables())
