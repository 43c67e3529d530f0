"""Programs that differ only in numbers, as one program that takes the numbers.

A function is traced to its list of operations. Two lists that are equal but for scalars and constant arrays are one
program with these as inputs, and `jax.vmap` runs it for all of them at once. So nobody has to say which keys of a
config are numbers to the program and which change its shapes or its structure: the lists tell. The numbers are those
that each function was traced with, rounded as they are when it runs by itself.

What stands in the body of a loop is structure: lists that differ there are different programs. A branch is no loop: all
branches are listed, and the results of one are selected, which is what `jax.vmap` makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxbp.check.diagnosis.jaxprs import bind, inner
from jaxbp.core import PyTree

OPENED = {  # calls whose operations are listed in their place
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Value(NamedTuple):
    """The result of an earlier operation, or an argument."""

    place: int


class Number(NamedTuple):
    """A scalar or a constant array of the list."""

    place: int


Operand = Value | Number


@dataclass
class Operations:
    """The operations of a function of arrays.

    outline: their names, settings and operands, without the numbers. Equal outlines are equal programs but for those.
    """

    outline: list[str]
    numbers: list[Any]
    listed: list[tuple[Callable[..., list], list[Operand], list[Value]]]
    values: int  # arguments and results so far
    outputs: list[Operand]

    @classmethod
    def of(cls, closed: ClosedJaxpr) -> Operations:
        """The operations of a jaxpr."""
        arguments = [Value(place) for place in range(len(closed.jaxpr.invars))]
        operations = cls([str(closed.in_avals)], [], [], len(arguments), [])
        operations.outputs = operations._add(closed, arguments)
        operations.outline.append(str(operations.outputs))
        return operations

    def _add(self, closed: ClosedJaxpr, arguments: Sequence[Operand]) -> list[Operand]:
        """Adds the operations of a jaxpr; -> its outputs."""
        known: dict[Any, Operand] = dict(zip(closed.jaxpr.invars, arguments, strict=True))
        known |= {
            v: self._number(value, v.aval) for v, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
        }

        def operand(v: Any) -> Operand:
            return self._number(v.val, v.aval) if isinstance(v, Literal) else known[v]

        for eqn in closed.jaxpr.eqns:
            inputs = [operand(v) for v in eqn.invars]
            outputs: Sequence[Operand]
            if (held := inner(eqn, OPENED)) is not None:
                outputs = self._add(held, inputs)
            elif eqn.primitive.name == "cond":
                branches = [self._add(branch, inputs[1:]) for branch in eqn.params["branches"]]
                outputs = [self._list(select, [inputs[0], *cases], 1)[0] for cases in zip(*branches, strict=True)]
            else:
                self.outline.append(f"{eqn.primitive} {described(eqn.params)}")
                outputs = self._list(partial(bind, eqn), inputs, len(eqn.outvars))
            known |= dict(zip(eqn.outvars, outputs, strict=True))
        return [operand(v) for v in closed.jaxpr.outvars]

    def _list(self, operation: Callable[..., list], inputs: list[Operand], count: int) -> list[Value]:
        """Adds an operation with `count` results; -> these."""
        outputs = [Value(self.values + i) for i in range(count)]
        self.values += count
        self.listed.append((operation, inputs, outputs))
        self.outline.append(f"{inputs} {count}")
        return outputs

    def _number(self, value: Any, aval: Any) -> Number:
        """A new number of the list."""
        self.numbers.append(value if jnp.issubdtype(aval.dtype, jax.dtypes.extended) else np.asarray(value, aval.dtype))
        self.outline.append(str(aval))
        return Number(len(self.numbers) - 1)

    def run(self, numbers: Sequence[Any], *arguments: Any) -> list:
        """The outputs for these numbers in the place of the list's own."""
        values: dict[int, Any] = dict(enumerate(arguments))
        read = lambda operand: (numbers if isinstance(operand, Number) else values)[operand.place]
        for operation, inputs, outputs in self.listed:
            results = operation(*map(read, inputs))
            values |= {output.place: result for output, result in zip(outputs, results, strict=True)}
        return [read(operand) for operand in self.outputs]


def select(index: Any, *cases: Any) -> list:
    """The case of this index, as a list of one."""
    return [jax.lax.select_n(index, *cases)]


def described(setting: Any) -> str:
    """A setting of an operation as text, equal for equal settings; the numbers of an inner jaxpr belong to it."""
    if isinstance(setting, Jaxpr):
        return described(ClosedJaxpr(setting, ()))
    if isinstance(setting, ClosedJaxpr):
        operations = Operations.of(setting)
        return f"{operations.outline} {[content(number).hex() for number in operations.numbers]}"
    if isinstance(setting, dict):
        return str([(key, described(value)) for key, value in sorted(setting.items())])
    return str([described(value) for value in setting]) if isinstance(setting, list | tuple) else repr(setting)


def content(number: Any) -> bytes:
    """What tells a number from another of its shape and type."""
    if jnp.issubdtype(number.dtype, jax.dtypes.extended):
        number = jax.random.key_data(number)
    return np.asarray(number).tobytes()


class Traced(NamedTuple):
    """A function that was traced: its operations, and the tree of its result."""

    operations: Operations
    result: Any

    @classmethod
    def of(cls, function: Callable[..., PyTree], *arguments: PyTree) -> Traced:
        """The function of such arguments, arrays or shapes."""
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        return cls(Operations.of(closed), jax.tree.structure(shape))

    @property
    def outline(self) -> str:
        """Equal for functions that differ only in numbers."""
        return "\n".join([*self.operations.outline, str(self.result)])


def together(functions: Sequence[Traced]) -> tuple[Callable[..., PyTree], list[jax.Array]]:
    """(one function (numbers, *arguments) -> result, its numbers), for functions of one outline.

    Function i is the one function with entry i of the numbers [functions, ...], which are those that differ.
    """
    first = functions[0]
    lists = [function.operations.numbers for function in functions]
    differing = [
        place for place, number in enumerate(lists[0]) if any(content(n[place]) != content(number) for n in lists)
    ]
    return partial(_called, first, differing), [jnp.stack([n[place] for n in lists]) for place in differing]


def _called(function: Traced, differing: Sequence[int], numbers: Sequence[jax.Array], *arguments: PyTree) -> PyTree:
    """The function with other numbers in some places."""
    every = list(function.operations.numbers)
    for place, number in zip(differing, numbers, strict=True):
        every[place] = number
    return jax.tree.unflatten(function.result, function.operations.run(every, *jax.tree.leaves(arguments)))
