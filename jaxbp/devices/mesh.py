"""The devices of a run as a mesh: a config that says how many parts of what, and the mesh that it builds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Annotated

import jax
from jax.sharding import AxisType

from jaxbp.errors import InputError
from jaxbp.typed import Typed

AXES = ("data", "fsdp")  # each splits the batch; fsdp splits parameters and optimizer too
SIMULATED = 1024  # devices at most that a message says how to simulate


@dataclass(frozen=True)
class Parts:
    """The numbers of parts that an axis of a mesh can have."""

    def holds(self, value: int) -> bool:
        """Whether it is a number of parts, or -1 for as many as there are devices left."""
        return value == -1 or value >= 1

    def __str__(self) -> str:
        return "of at least 1, or -1 for all devices that are left"


@dataclass(frozen=True)
class MeshShape(Typed):
    """The devices of a run, data times fsdp times tensor of them; 1 each is one device, and no mesh.

    Args:
        data: parts of the batch, in each of which every parameter is whole; -1: as many as devices are left
        fsdp: parts of the batch, and of every parameter and what the optimizer keeps of it; -1: as for data
        tensor: parts of the layers that devices can share, each for the same rows; -1: as for data
    """

    data: Annotated[int, Parts()] = 1
    fsdp: Annotated[int, Parts()] = 1
    tensor: Annotated[int, Parts()] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if [self.data, self.fsdp, self.tensor].count(-1) > 1:
            raise InputError("MeshShape: only one of data, fsdp and tensor can be -1, all devices that are left")

    def sizes(self, devices: int) -> dict[str, int]:
        """{axis: its parts} where there are so many devices. Raises InputError where they are not as many as parts."""
        named = self._named()
        known = abs(prod(named.values()))  # without the -1
        rest = devices // known if -1 in named.values() else 1
        if known * rest not in (1, devices):
            raise InputError(f"run.mesh: {self._text()} of {count(devices)}; {self._nearest(devices)}")
        return {axis: rest if size == -1 else size for axis, size in named.items()}

    def _named(self) -> dict[str, int]:
        """Of all axes; of the last one only where it is more than one part."""
        named = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        return {axis: size for axis, size in named.items() if axis in AXES or size != 1}

    def _text(self) -> str:
        parts = " x ".join(f"{axis}={size}" for axis, size in self._named().items())
        return f"{parts} cannot be a mesh" if -1 in self._named().values() else f"{parts} is no mesh"

    def _nearest(self, devices: int) -> str:
        """The mesh of all devices whose tensor, and then fsdp, is the nearest that divides them."""
        named = self._named()
        parts = abs(prod(named.values()))
        left = devices
        nearest = {}
        for axis in list(named)[:0:-1]:
            divisors = [size for size in range(1, left + 1) if left % size == 0]
            wish = named[axis] if named[axis] > 0 else devices // parts
            nearest[axis] = min((abs(size - wish), size) for size in divisors)[1]
            left //= nearest[axis]
        others = " and ".join(f"run.mesh.{axis}={size}" for axis, size in reversed(nearest.items()))
        text = f"run.mesh.data={left} with {others} is one"
        if jax.default_backend() == "cpu" and devices < parts <= SIMULATED:
            text += f" (JAX_NUM_CPU_DEVICES={parts} in the environment simulates {parts} devices)"
        return text

    def check_single(self, what: str) -> None:
        """Raises InputError where it is more than one device: `what`, such as "a search", uses one."""
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        if prod(jax.device_count() if size == -1 else size for size in sizes.values()) != 1:
            text = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
            raise InputError(f"{what} uses one device: run.mesh must be data=1, fsdp=1, tensor=1, got {text}")

    def build(self) -> jax.sharding.Mesh | None:
        """The mesh of all devices; None for one device. Raises InputError where they do not fit."""
        if self == MeshShape():
            return None
        sizes = self.sizes(jax.device_count())
        if set(sizes.values()) == {1}:
            return None
        return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def row_parts(mesh: jax.sharding.Mesh) -> int:
    """How many parts a batch has on the mesh."""
    return prod(mesh.shape[axis] for axis in AXES)


def check_batch(mesh: jax.sharding.Mesh, rows: int, micro_batches: int, examples: int) -> None:
    """Raises InputError where the devices do not divide a batch, or a part of it that is computed at once."""
    unit = row_parts(mesh) * micro_batches
    if rows % unit == 0:
        return
    least = rows // unit * unit
    sizes = [size for size in (least, least + unit) if 0 < size <= examples]
    nearest = min(sizes, key=lambda size: abs(size - rows), default=0)
    groups = count(mesh.size) if row_parts(mesh) == mesh.size else f"{row_parts(mesh)} parts of the mesh"
    parts = groups + (f" and {micro_batches} micro-batches" if micro_batches > 1 else "")
    remedy = f"run.batch_size={nearest} does"
    if not nearest:
        most = max((n for n in range(2, mesh.size) if mesh.size % n == rows % (n * micro_batches) == 0), default=1)
        wide = f"data={most} x fsdp=1 x tensor={mesh.size // most} where the layers can be shared so, or "
        meshes = f"{wide if most > 1 else ''}data=1 x fsdp=1 x tensor=1"
        remedy = f"there are only {examples} training examples, for which run.mesh can be {meshes}"
    raise InputError(f"a batch of {rows} examples does not divide among {parts}; {remedy}")


def count(devices: int) -> str:
    """'1 device' or '8 devices'."""
    return f"{devices} device{'' if devices == 1 else 's'}"
