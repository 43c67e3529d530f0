"""A program run in NumPy for many settings of its switches at once, and only where they make a difference.

A program with hundreds of mutants takes a minute to compile and a moment to run. So it is not compiled. A value is held
once for all settings that agree (`base`), and row by row for those that differ. A row is computed only if it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxbp.check.diagnosis.jaxprs import bind
from jaxbp.check.diagnosis.primitives import PRIMITIVES

OPENED = {"jit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr"}
Need = np.ndarray  # for every row, and for the base as the last, whether it is needed


class Spread(NamedTuple):
    """A value in all settings: `base`, but `data[i]` in row `rows[i]`; base is None where no row takes it."""

    base: Any
    rows: np.ndarray
    data: Any

    def take(self, rows: np.ndarray) -> tuple[Any, bool]:
        """(the values in those rows, True), or (the base, False) where none of them differs."""
        if not len(self.rows):
            return self.base, False
        if len(rows) == len(self.rows) and np.array_equal(rows, self.rows):
            return self.data, True
        at = np.searchsorted(self.rows, rows)
        at[at == len(self.rows)] = 0
        own = self.rows[at] == rows
        if own.all():
            return self.data[at], True
        base = np.broadcast_to(self.base, (len(rows), *np.shape(self.base)))
        return np.where(own.reshape(-1, *[1] * np.ndim(self.base)), self.data[at], base), True


NONE = np.zeros(0, int)
NOTHING = Spread(None, NONE, None)  # a value that nobody needs


def constant(a: Any) -> Spread:
    """The same in every setting."""
    return Spread(on_host(a), NONE, None)


def on_host(a: Any) -> Any:
    """A NumPy array, or a random key as it is."""
    is_key = isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.extended)
    return a if is_key else np.asarray(a)


def run_rows(closed: ClosedJaxpr, switches: np.ndarray, inputs: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of closed(row of switches, *inputs), stacked over the rows."""
    count = len(switches)
    every = np.arange(count)
    need = np.append(np.ones(count, bool), False)
    first = Spread(np.zeros(switches.shape[1], bool), every, switches)
    with np.errstate(all="ignore"):
        outputs = _run(closed, [first, *map(constant, inputs)], [need] * len(closed.jaxpr.outvars))
    stack = lambda out: (
        out.take(every) if len(out.rows) else (np.broadcast_to(out.base, (count, *out.base.shape)), True)
    )
    return [stack(out)[0] for out in outputs]


def _run(closed: ClosedJaxpr, inputs: Sequence[Spread], needs: Sequence[Need]) -> list[Spread]:
    """The outputs, each in the rows where it is needed."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, map(constant, closed.consts), strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))
    size = len(needs[0]) if needs else 0
    known = _switches(jaxpr.eqns, values)
    need = _needs(jaxpr, known, needs, size)
    for eqn in jaxpr.eqns:
        wanted = [need.get(v, np.zeros(size, bool)) for v in eqn.outvars]
        if not any(mask.any() for mask in wanted):
            continue
        operands = [constant(v.val) if isinstance(v, Literal) else values.get(v, NOTHING) for v in eqn.invars]
        name = eqn.primitive.name
        if name == "select_n" and _is_known(eqn.invars[0], known):
            outputs = [_selected(known[eqn.invars[0]], operands[1], operands[2], wanted[0])]
        elif name in OPENED:
            held = eqn.params[OPENED[name]]
            held = held if isinstance(held, ClosedJaxpr) else ClosedJaxpr(held, ())
            outputs = _run(held, operands, wanted)
        elif name == "scan":
            outputs = _scan(eqn, operands, wanted)
        else:
            outputs = _applied(eqn, operands, np.logical_or.reduce(wanted))
        values |= dict(zip(eqn.outvars, outputs, strict=True))
    return [constant(v.val) if isinstance(v, Literal) else values.get(v, NOTHING) for v in jaxpr.outvars]


def _switches(eqns: Sequence[JaxprEqn], values: dict[Any, Spread]) -> dict[Any, np.ndarray]:
    """The scalars that are single switches, or say whether one of some is on: by row, the base last."""
    known: dict[Any, np.ndarray] = {}
    vectors = {
        v
        for v, spread in values.items()
        if len(spread.rows) and np.ndim(spread.base) == 1 and spread.base.dtype == bool
    }
    for eqn in (eqn for eqn in eqns if eqn.outvars and eqn.invars):
        name, out = eqn.primitive.name, eqn.outvars[0]
        operands = eqn.invars
        if name == "slice" and _is_known(operands[0], vectors):
            spread = values[operands[0]]
            i = eqn.params["start_indices"][0]
            known[out] = np.append(spread.data[:, i], spread.base[i])
        elif name in ("squeeze", "reshape", "convert_element_type", "copy") and _is_known(operands[0], known):
            known[out] = known[operands[0]]
        elif name == "or" and all(isinstance(v, Literal) or v in known for v in operands):
            sides = [np.asarray(v.val) if isinstance(v, Literal) else known[v] for v in operands]
            known[out] = np.broadcast_to(sides[0] | sides[1], np.broadcast_shapes(*(s.shape for s in sides)))
    return {v: mask for v, mask in known.items() if v.aval.shape == () and v.aval.dtype == bool and mask.ndim}


def _needs(jaxpr: Any, known: dict[Any, np.ndarray], needs: Sequence[Need], size: int) -> dict[Any, Need]:
    """In which rows each value is needed."""
    need: dict[Any, Need] = {}

    def ask(v: Any, mask: Need) -> None:
        if not isinstance(v, Literal):
            need[v] = need[v] | mask if v in need else mask

    for v, mask in zip(jaxpr.outvars, needs, strict=True):
        ask(v, mask)
    for eqn in reversed(jaxpr.eqns):
        masks = [need[v] for v in eqn.outvars if v in need]
        if not masks:
            continue
        mask = masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)
        if eqn.primitive.name == "select_n" and _is_known(eqn.invars[0], known):
            on = known[eqn.invars[0]]
            ask(eqn.invars[1], mask & ~on)
            ask(eqn.invars[2], mask & on)
            continue
        if eqn.primitive.name == "scan":
            mask = np.ones(size, bool)
        for v in eqn.invars:
            ask(v, mask)
    return need


def _selected(on: np.ndarray, off_value: Spread, on_value: Spread, need: Need) -> Spread:
    """The second value in the rows where a switch is on, the first in the others."""
    base_on = bool(on[-1])
    same, other = (on_value, off_value) if base_on else (off_value, on_value)
    differs = np.flatnonzero((on[:-1] != base_on) & need[:-1])
    kept = same.rows[need[same.rows] & (on[same.rows] == base_on)]
    parts = []
    for spread, rows in ((same, kept), (other, differs)):
        if len(rows):
            data, own = spread.take(rows)
            parts.append((rows, data if own else np.broadcast_to(data, (len(rows), *np.shape(data)))))
    if not parts:
        return Spread(same.base, NONE, None)
    rows = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(rows)
    data = np.concatenate([data for _, data in parts])[order]
    return Spread(same.base, rows[order], data)


def _applied(eqn: JaxprEqn, operands: Sequence[Spread], need: Need) -> list[Spread]:
    """One operation: once for the base, and once for all rows that differ and are needed."""
    touched = [spread.rows for spread in operands if len(spread.rows)]
    rows = NONE
    if touched:
        rows = touched[0] if len(touched) == 1 else np.unique(np.concatenate(touched))
        rows = rows[need[rows]]
    count = len(eqn.outvars)
    bases: Sequence[Any] = [None] * count
    if int(need.sum()) > len(rows) and all(spread.base is not None for spread in operands):
        bases = operate(eqn, [spread.base for spread in operands], [False] * len(operands))
    if not len(rows):
        return [Spread(base, NONE, None) for base in bases]
    taken = [spread.take(rows) for spread in operands]
    data = operate(eqn, [a for a, _ in taken], [own for _, own in taken])
    return [Spread(base, rows, part) for base, part in zip(bases, data, strict=True)]


def operate(eqn: JaxprEqn, arrays: list[Any], rowwise: list[bool]) -> list[np.ndarray]:
    """The operation on arrays, of which some have the rows as their first axis."""
    if (function := PRIMITIVES.get(eqn.primitive.name)) is not None:
        result = function(eqn, arrays, rowwise)
        if result is not None:
            return result if isinstance(result, list) else [result]
    key = (eqn.primitive.name, str(eqn.params), tuple(rowwise), tuple(np.shape(a) for a in arrays))
    if key not in COMPILED:
        run: Callable[..., Any] = lambda *arrays: bind(eqn, *arrays)
        if any(rowwise):
            run = jax.vmap(run, in_axes=[0 if own else None for own in rowwise])
        COMPILED[key] = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    return [on_host(a) for a in COMPILED[key](*arrays)]


COMPILED: dict[tuple, Callable[..., Any]] = {}


def _scan(eqn: JaxprEqn, operands: Sequence[Spread], wanted: Sequence[Need]) -> list[Spread]:
    """A loop, step by step."""
    p = eqn.params
    consts, carry = p["num_consts"], p["num_carry"]
    fixed, state, xs = operands[:consts], list(operands[consts : consts + carry]), operands[consts + carry :]
    everything = np.ones(len(wanted[0]), bool)
    needs = [everything] * carry + [everything & mask.any() for mask in wanted[carry:]]
    order = range(p["length"])
    steps: list[Any] = [None] * p["length"]
    at = lambda spread, t: Spread(
        None if spread.base is None else spread.base[t], spread.rows, spread.data[:, t] if len(spread.rows) else None
    )
    for t in reversed(order) if p["reverse"] else order:
        outputs = _run(p["jaxpr"], [*fixed, *state, *(at(x, t) for x in xs)], needs)
        state = outputs[:carry]
        steps[t] = outputs[carry:]
    return [*state, *(_stacked(column) for column in zip(*steps, strict=True))]


def _stacked(column: Sequence[Spread]) -> Spread:
    """One output of all steps, the steps as its first axis."""
    rows = np.unique(np.concatenate([spread.rows for spread in column]))
    if any(spread.base is None for spread in column):
        return NOTHING
    bases = [spread.base for spread in column]
    base = np.stack(bases) if isinstance(bases[0], np.ndarray | np.generic) else jnp.stack(bases)  # of random keys
    if not len(rows):
        return Spread(base, NONE, None)
    whole = lambda a, own: a if own else np.broadcast_to(a, (len(rows), *np.shape(a)))
    return Spread(base, rows, np.stack([whole(*spread.take(rows)) for spread in column], 1))


def _is_known(v: Any, known: Container) -> bool:
    """Whether a variable is among them; a number that stands in the program never is."""
    return not isinstance(v, Literal) and v in known
