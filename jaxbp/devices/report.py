"""What a mesh does, for the first lines of a run: bytes a device, and the collectives of a compiled program."""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import Any

import jax
import numpy as np

from jaxbp.core import PyTree
from jaxbp.devices.mesh import count
from jaxbp.devices.placement import Placement, keys, shards_by_path
from jaxbp.devices.tensor import TENSOR, UNCUT

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$", re.MULTILINE)
CALLED = re.compile(r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
NUMBERED = re.compile(r"\d+_")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def collectives(program: str) -> Counter[tuple[str, int]]:
    """{(kind, loops around it): how many} of a compiled program's text. Raises ValueError where it has no entry."""
    bodies = {}
    entry = ""
    for computation in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ [^\n]*\{\n)", program):
        if name := COMPUTATION.match(computation):
            bodies[name[1]] = computation.splitlines()[1:]
            entry = name[1] if computation.startswith("ENTRY") else entry
    if not entry:
        raise ValueError("the text is no compiled program: it has no ENTRY")
    found: Counter[tuple[str, int]] = Counter()

    def visit(name: str, loops: int) -> None:
        for line in bodies.get(name, ()):
            for kind in KINDS:
                if re.search(rf" {kind}(-start)?\(", line):
                    found[kind, loops] += 1
            is_loop = re.search(r" while\(", line) is not None
            called = CALLED.findall(line)
            for branches in BRANCHES.findall(line):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for inner in called:
                visit(inner, loops + is_loop)

    visit(entry, 0)
    return found


def device_bytes(tree: PyTree) -> int:
    """The bytes that one device holds of the arrays."""
    size = lambda leaf: prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(size, jax.tree.leaves(tree)))


def mesh_line(mesh: jax.sharding.Mesh, params: PyTree, optimizer: PyTree, program: str) -> str:
    """The mesh, what a device holds, and the collectives of a step of a compiled program of many."""
    shape = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    kinds = {kind: [0, 0] for kind in KINDS}
    for (kind, loops), number in collectives(program).items():
        if loops:
            kinds[kind][loops > 1] += number
    texts = [f"{once} {kind}" for kind, (once, _) in kinds.items() if once]
    texts += [f"{inside} {kind} in a loop" for kind, (_, inside) in kinds.items() if inside]
    return (
        f"mesh {shape} of {count(mesh.size)}, each with {device_bytes(params):,} bytes of parameters and "
        f"{device_bytes(optimizer):,} of the optimizer; a step: {', '.join(texts) or 'no collectives'}"
    )


def tensor_line(placement: Placement) -> str:
    """What the devices of the tensor axis share, and the layers that each of them has whole."""
    shards = {keys(path): shard for path, shard in shards_by_path(placement.shards)}
    size = lambda shards: sum(prod(shard.value.shape) for shard in shards)
    split = {layer_path(names) for names, shard in shards.items() if shard.cut != UNCUT}
    whole = [layer_path(names)[-1] for names in shards if layer_path(names) not in split]
    names = ", ".join(dict.fromkeys(name.lstrip("0123456789_") for name in whole))
    parts = size(shard for shard in shards.values() if shard.cut != UNCUT)
    return (
        f"the tensor axis splits {parts:,} of {size(shards.values()):,} parameters; whole on each of its devices: "
        + (f"{names}, and biases that are added once" if names else "biases that are added once")
    )


def layer_path(names: tuple[str, ...]) -> tuple[str, ...]:
    """The path of a parameter's layer: up to its number in a chain, or to its name in a graph."""
    numbered = [i for i, name in enumerate(names[:-1]) if NUMBERED.match(name)]
    return names[: numbered[-1] + 1] if numbered else names[:-1]


def compiled(program: Any, placement: Placement, state: Any, steps: tuple[Any, Any]) -> Any:
    """The program of a run, compiled for its state and for the steps of a call, after a line of what the mesh does."""
    executable = program.lower(state, *steps, np.int32(0)).compile()
    print(mesh_line(placement.mesh, state.params, state.optimizer, executable.as_text()), flush=True)
    if TENSOR in placement.mesh.shape:
        print(tensor_line(placement), flush=True)
    return executable
