"""A program in stages, so that numbers which are compared have been computed once.

XLA computes a value again in each fusion that reads it, and the copies may round differently: in each of them anew, a
product and a sum become one instruction or two. Then `z == z.max()` is false everywhere, and the derivative of a
maximum is 0 / 0. No option of the CPU compiler forbids that at any level of optimisation, and it drops
`optimization_barrier` before it fuses. So the program is cut behind every value that a comparison reads, be it through
operations that only choose or move numbers. Such a value is stored by one stage and read by the next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from jaxbp.check.calls import held, operations
from jaxbp.check.diagnosis.jaxprs import INLINED, bind, evaluate, inner
from jaxbp.core import PyTree

COMPARISONS = {"eq", "ne", "ge", "gt", "le", "lt"}
EXACT = {  # they choose or move numbers, and round none
    *("max", "min", "clamp", "reduce_max", "reduce_min", "cummax", "cummin", "sort", "top_k", "select_n"),
    *("reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice", "dynamic_slice", "gather"),
    *("concatenate", "pad", "rev", "copy", "neg", "abs", "split"),
}


class Stage(NamedTuple):
    """run(*values of reads) -> values of writes."""

    reads: list[Var]
    run: Callable[..., list[jax.Array]]
    writes: list[Var]


class Staged:
    """jax.jit(function, compiler_options=options), cut where numbers are compared. Its arguments keep their shapes.

    A comparison in the body of a loop cannot be cut. Such a program is compiled as its user's is, without the options.
    """

    def __init__(self, function: Callable, options: dict[str, Any] | None) -> None:
        self._function = function
        self._options = options
        self._run: Callable | None = None

    def __call__(self, *arguments: PyTree) -> PyTree:
        if self._run is None:
            self._run = self._compiled(arguments)
        return self._run(*arguments)

    def _compiled(self, arguments: tuple) -> Callable:
        whole = jax.jit(self._function, compiler_options=self._options)
        traced = whole.trace(*arguments)
        if not any(map(_compares, operations(traced.jaxpr.jaxpr))):
            return whole
        closed = jax.make_jaxpr(partial(evaluate, traced.jaxpr, visit=_opened))(jax.tree.leaves(arguments))
        if any(_compares(eqn) for outer in closed.jaxpr.eqns for sub in held(outer) for eqn in operations(sub)):
            return jax.jit(self._function)
        stages = _stages(closed)
        if len(stages) == 1:
            return whole
        structure = jax.tree.structure(traced.out_info)
        compiled = [stage._replace(run=jax.jit(stage.run, compiler_options=self._options)) for stage in stages]

        def run(*arguments: PyTree) -> PyTree:
            values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
            values |= dict(zip(closed.jaxpr.invars, jax.tree.leaves(arguments), strict=True))
            for stage in compiled:
                values |= dict(zip(stage.writes, stage.run(*(values[v] for v in stage.reads)), strict=True))
            outputs = [v.val if isinstance(v, Literal) else values[v] for v in closed.jaxpr.outvars]
            return jax.tree.unflatten(structure, outputs)

        return run


def _opened(eqn: JaxprEqn, inputs: list, path: str) -> list:
    closed = inner(eqn, INLINED)
    return bind(eqn, *inputs) if closed is None else evaluate(closed, inputs, _opened, path)


def _compares(eqn: JaxprEqn) -> bool:
    """Whether an operation compares two arrays of real numbers."""
    dtype = lambda v: getattr(v.aval, "dtype", np.bool_)
    real = lambda v: isinstance(v, Var) and jnp.issubdtype(dtype(v), jnp.floating)
    return eqn.primitive.name in COMPARISONS and all(map(real, eqn.invars))


def _stages(closed: ClosedJaxpr) -> list[Stage]:
    eqns = closed.jaxpr.eqns
    compared = _compared(eqns)
    stage: dict[Var, int] = {}  # in which a value is computed
    members: dict[int, list[JaxprEqn]] = {}
    for eqn in eqns:
        inputs = [v for v in eqn.invars if isinstance(v, Var) and v in stage]
        number = max((stage[v] + (v in compared) for v in inputs), default=0)
        stage |= dict.fromkeys(eqn.outvars, number)
        members.setdefault(number, []).append(eqn)
    needed = {v for v in closed.jaxpr.outvars if isinstance(v, Var)}
    stages = []
    for number in sorted(members, reverse=True):
        written = [v for eqn in members[number] for v in eqn.outvars]
        writes = [v for v in written if v in needed]
        reads = list(dict.fromkeys(v for eqn in members[number] for v in eqn.invars if isinstance(v, Var)))
        reads = [v for v in reads if stage.get(v, -1) < number]
        needed |= set(reads)
        stages.append(Stage(reads, partial(_run, members[number], reads, writes), writes))
    return stages[::-1]


def _compared(eqns: list[JaxprEqn]) -> set[Var]:
    """The rounded values that comparisons of two arrays read, through operations that round nothing."""
    constant: set[Var] = set()
    for eqn in eqns:
        if all(isinstance(v, Literal) or v in constant for v in eqn.invars):
            constant |= set(eqn.outvars)
    wanted: set[Var] = set()
    rounded: set[Var] = set()
    for eqn in reversed(eqns):
        exact = eqn.primitive.name in EXACT
        if not exact:
            rounded |= set(eqn.outvars)
        inputs = {v for v in eqn.invars if isinstance(v, Var)}
        if (_compares(eqn) and not inputs & constant) or (exact and not wanted.isdisjoint(eqn.outvars)):
            wanted |= inputs
    return wanted & rounded


def _run(eqns: list[JaxprEqn], reads: list[Var], writes: list[Var], *inputs: jax.Array) -> list[jax.Array]:
    values = dict(zip(reads, inputs, strict=True))
    for eqn in eqns:
        outputs = bind(eqn, *(v.val if isinstance(v, Literal) else values[v] for v in eqn.invars))
        values |= dict(zip(eqn.outvars, outputs, strict=True))
    return [values[v] for v in writes]
