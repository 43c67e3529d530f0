"""A function as its list of primitive operations: run again with a visitor at every one, loops and calls included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import source_info_util  # the only door to an operation's source line
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxbp.core import PyTree

Visit = Callable[[JaxprEqn, list, str], list]  # (operation, inputs, path) -> outputs
INLINED = {"jit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr"}
NOBODYS = (str(Path(__file__).parent.parent), str(Path(np.__file__).parent))  # a line of ours or NumPy's is no place
RULED = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def evaluate(closed: ClosedJaxpr, inputs: list, visit: Visit, path: str = "") -> list:
    """The outputs of a jaxpr, with visit(operation, inputs, path) -> outputs at every operation."""
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, inputs, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]
    for i, eqn in enumerate(closed.jaxpr.eqns):
        stack = source_info_util.current_name_stack()
        with source_info_util.user_context(eqn.source_info.traceback, name_stack=stack):  # run again, it keeps its line
            outputs = visit(eqn, [read(v) for v in eqn.invars], f"{path}/{i}")
        values |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in closed.jaxpr.outvars]


def bind(eqn: JaxprEqn, *inputs: Any) -> list:
    """The outputs of the operation itself."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # a pair in some versions of JAX
    outputs = eqn.primitive.bind(*functions, *inputs, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def inner(eqn: JaxprEqn, opened: dict[str, str]) -> ClosedJaxpr | None:
    """The list of operations that a call holds, if it is one of those to be opened."""
    if eqn.primitive.name not in opened:
        return None
    jaxpr = eqn.params[opened[eqn.primitive.name]]
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def choose(eqn: JaxprEqn, inputs: list, visit: Visit, path: str) -> list:
    """A cond or switch with its branches visited."""
    run = lambda branch, *inputs: evaluate(branch, list(inputs), visit, path)
    return jax.lax.switch(inputs[0], [partial(run, branch) for branch in eqn.params["branches"]], *inputs[1:])


def scan(
    eqn: JaxprEqn, inputs: list, step: Callable[[list, list, list, PyTree], tuple[list, PyTree]], extra: PyTree
) -> tuple[list, PyTree]:
    """A scan whose body is `step(consts, carry, x, extra) -> (outputs, kept)`; -> (outputs, kept of every step)."""
    p = eqn.params
    ends = (p["num_consts"], p["num_consts"] + p["num_carry"])
    consts, carry, xs = inputs[: ends[0]], inputs[ends[0] : ends[1]], inputs[ends[1] :]

    def body(carry: list, x: tuple) -> tuple[list, tuple]:
        outputs, kept = step(consts, carry, *x)
        return outputs[: p["num_carry"]], (outputs[p["num_carry"] :], kept)

    carry, (ys, kept) = jax.lax.scan(body, carry, (xs, extra), length=p["length"], reverse=p["reverse"])
    return [*carry, *ys], kept


def sharded(eqn: JaxprEqn, inputs: list, body: Callable[..., list]) -> list:
    """A shard_map with another body, on the shards of each device."""
    p = eqn.params
    specs = {"mesh": p["mesh"], "in_specs": p["in_specs"], "out_specs": p["out_specs"]}
    names = p["newly_manual_axes"]
    mapped = jax.shard_map(lambda *inputs: tuple(body(*inputs)), axis_names=names, check_vma=p["check_vma"], **specs)
    return list(mapped(*inputs))


def traced(function: Callable[[PyTree], PyTree], argument: PyTree) -> tuple[ClosedJaxpr, Any]:
    """(the list of operations, the tree of the result)."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(argument)
    return closed, jax.tree.structure(shape)


@contextmanager
def own_lines() -> Iterator[None]:
    """What a custom rule does backward keeps its own lines, instead of that of the call that the rule belongs to."""
    theirs = source_info_util.user_context
    source_info_util.user_context = lambda *args, **keywords: nullcontext()  # type: ignore[assignment]
    try:
        yield
    finally:
        source_info_util.user_context = theirs


def undecorated(function: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """The same function of one tree, with its outermost jax.custom_vjp and jax.custom_jvp rules taken off.

    Rules inside those (jax.nn.relu in the body of a custom_vjp) are JAX's or somebody else's, and stay.
    """

    def visit(eqn: JaxprEqn, inputs: list, path: str) -> list:
        if (held := inner(eqn, RULED)) is not None:
            return evaluate(held, inputs, lambda eqn, inputs, path: bind(eqn, *inputs), path)
        if (held := inner(eqn, INLINED)) is not None:
            return evaluate(held, inputs, visit, path)
        if eqn.primitive.name == "scan":
            body = eqn.params["jaxpr"]
            step = lambda consts, carry, x, extra: (evaluate(body, [*consts, *carry, *x], visit, path), None)
            return scan(eqn, inputs, step, None)[0]
        if eqn.primitive.name == "shard_map":
            body = ClosedJaxpr(eqn.params["jaxpr"], ())
            return sharded(eqn, inputs, lambda *inputs: evaluate(body, list(inputs), visit, path))
        return choose(eqn, inputs, visit, path) if eqn.primitive.name == "cond" else bind(eqn, *inputs)

    def plain(argument: PyTree) -> PyTree:
        closed, structure = traced(function, argument)
        return jax.tree.unflatten(structure, evaluate(closed, jax.tree.leaves(argument), visit))

    return plain


class Line(NamedTuple):
    """A place in the user's code."""

    file: str
    row: int
    column: int

    @property
    def short(self) -> str:
        """'model.py:12'."""
        return f"{self.file.rpartition('/')[2]}:{self.row}"


def lines_of(eqn: JaxprEqn) -> tuple[Line, ...]:
    """The lines of the user's code that an operation came from, the innermost first."""
    frames = source_info_util.user_frames(eqn.source_info.traceback)
    return tuple(Line(f.file_name, f.start_line, f.start_column) for f in frames if not f.file_name.startswith(NOBODYS))


def place(eqn: JaxprEqn) -> str:
    """'tanh (model.py:12)': the operation, and the line of the forward pass that it came from."""
    name = eqn.primitive.name
    if name == "custom_jvp_call":
        name = eqn.params["call_jaxpr"].jaxpr.debug_info.func_name
    lines = lines_of(eqn)
    return f"'{name}'" + (f" ({lines[0].short})" if lines else "")


def of_jax(closed: ClosedJaxpr) -> bool:
    """Whether a call's operations come from JAX's own code: traced once, they keep the line of the first caller."""
    file = closed.jaxpr.debug_info.func_filename
    return file is not None and not source_info_util.is_user_filename(file)


def stack_of(eqn: JaxprEqn) -> tuple:
    """Every call on the way to an operation, JAX's own included: equal for the same line in the steps of a loop."""
    traceback = eqn.source_info.traceback
    return tuple(zip(*traceback.raw_frames(), strict=True)) if traceback else ()
