"""Which dimensions of a layer devices can share, by the letters of its einsums.

A layer that is linear in what it shares gives, from equal parts of one letter's entries, a part of its result:

    forward   where the output has the letter, each device has its own entries; where not, they are added
    backward  where the input has the letter, each device has its own entries of dx; where not, they are added

So Dense, y[.., o] = x[.., i] w[o, i], adds dx where o is shared and y where i is. Attention over heads h, whose input
and output are whole, adds both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax


@dataclass(frozen=True)
class Letters:
    """The letter of the last dimension of input and output, and those of the last dimensions of the parameters.

    Without letters a layer is whole on every device.
    params: {path: letters}; parameters that are not named stay whole. sizes: {letter: what the devices must divide}.
    groups: {path: proportions} of parameters whose shared dimension has several kinds of entries side by side, such as
    queries, keys and values: each kind is shared by itself.
    """

    input: str = ""
    output: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def inner(self) -> str:
        """The letter that neither input nor output has, such as heads; "" where there is none."""
        return "".join(sorted(set("".join(self.params.values())) - {self.input, self.output}))

    @property
    def passes(self) -> bool:
        """Whether every entry of the output comes from the same entry of the input."""
        return self.input == self.output != "" and not self.params

    @property
    def mixes(self) -> bool:
        """Whether a product leads from the entries of the input to those of the output."""
        ends = {self.input, self.output}
        return len(ends - {""}) == 2 and any(ends <= set(letters) for letters in self.params.values())


def first_entry(axis: str | None, count: int) -> jax.Array | int:
    """The number of the first entry of a shared dimension that this device has, where each of `axis` has `count`.

    axis: of a mesh; None: one device has all entries.
    """
    return 0 if axis is None else jax.lax.axis_index(axis) * count
