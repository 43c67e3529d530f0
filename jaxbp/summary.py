"""A model as a table: its layers by path, output shapes, parameters and their bytes, operations forward and backward.

Nothing is computed or compiled: the passes are traced once, what is not used is left out (the delta of the inputs, for
one), and the operations left are counted by the layer in whose name they run. One operation is one multiplication,
addition, comparison or function of one number; moving numbers is none. A product of [M, K] and [K, N] has 2 M K N. The
body of a loop counts as often as it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from jaxbp.core import Context, Layer, PyTree, Static, label, map_leaves, output_spec, path_name
from jaxbp.rules import gradient
from jaxbp.wrappers import Keep

MOVES = re.compile(
    "broadcast|concatenate|convert|copy|device_put|dynamic|expand|gather|iota|pad|random|reshape|rev|slice|split|squeeze"
    "|stop_gradient|transpose"
)
REDUCTIONS = re.compile("reduce|arg|cum|scatter")


@dataclass(frozen=True)
class Row:
    """One leaf layer, or the whole model. bytes: those of the parameters."""

    path: str
    layer: str
    output: str
    parameters: int
    bytes: int
    forward: int
    backward: int


@dataclass(frozen=True)
class Summary:
    """The leaf layers in forward order, and their total, operations between layers included. Prints as a table."""

    rows: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        head = ("path", "layer", "output", "parameters", "bytes", "forward", "backward")
        body = [
            tuple(f"{value:,}" if isinstance(value, int) else value for value in vars(row).values()) for row in self
        ]
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        aligned = lambda cells: "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        return "\n".join(map(aligned, (head, *body)))

    def __iter__(self) -> Iterator[Row]:
        yield from self.rows
        yield self.total


def summary(model: Layer, x: PyTree, train: bool = True) -> Summary:
    """The table of `model` for inputs like x (an array or a jax.ShapeDtypeStruct, batch axis included).

    print(summary(model, x)) shows it. Operations are those of one forward and one backward pass of the whole batch, in
    training or in evaluation, without the loss. Raises InputError where x does not fit the model.
    """
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, spec)
    ctx = Context(key, jax.eval_shape(lambda: model.init_state(spec)), train)
    leaves = leaf_outputs(model, params, spec, ctx)
    counts = operations(model, params, spec, ctx)
    rows = []
    for path, (layer, shape) in leaves.items():
        own = at_path(params, path)
        work = [sum(n for scope, n in counts[phase].items() if owner(scope, leaves) == path) for phase in PHASES]
        rows.append(Row(path or label(layer), repr(layer), shape, *sizes(own), *work))
    total = [sum(counts[phase].values()) for phase in PHASES]
    output = shape_text(output_spec(model, spec, train))
    return Summary(tuple(rows), Row("total", "", output, *sizes(params), *total))


PHASES = ("forward", "backward")


def leaf_outputs(model: Layer, params: PyTree, spec: PyTree, ctx: Context) -> dict[str, tuple[Layer, str]]:
    """{path: (leaf layer, the shape of its output)} in forward order."""
    leaves: list[tuple[Layer, str]] = []

    def note(layer: Keep, params: PyTree, cache: Any, dy: PyTree) -> tuple[PyTree, Static]:
        leaves.append((layer.inner, shape_text(cache.y)))
        return layer.backward(params, cache, dy)[0], Static(len(leaves) - 1)

    def passes(params: PyTree, x: PyTree, ctx: Context) -> PyTree:
        kept = map_leaves(model, Keep)
        y, cache = kept.forward(params, x, ctx)
        return kept.sweep(note, params, cache, y)[1]

    numbers = jax.eval_shape(passes, params, spec, ctx)
    flat = jax.tree_util.tree_leaves_with_path(numbers, is_leaf=lambda node: isinstance(node, Static))
    by_path = {path_name(path): number.value for path, number in flat}
    return {path: leaves[by_path[path]] for path in sorted(by_path, key=by_path.__getitem__, reverse=True)}


def operations(model: Layer, params: PyTree, spec: PyTree, ctx: Context) -> dict[str, dict[str, int]]:
    """{"forward" or "backward": {the names an operation runs under: how many there are}}."""

    def passes(params: PyTree, x: PyTree, ctx: Context, dy: PyTree) -> PyTree:
        with jax.named_scope("forward"):
            y, cache = model.forward(params, x, ctx)
        with jax.named_scope("backward"):
            return y, model.sweep(gradient, params, cache, dy)[1]

    jaxpr = jax.make_jaxpr(passes)(params, spec, ctx, output_spec(model, spec, ctx.train)).jaxpr
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    counts: dict[str, dict[str, int]] = {phase: {} for phase in PHASES}
    for names, number in counted(used, (), 1):
        phase, scope = names[0], "/".join(names[1:])
        counts[phase][scope] = counts[phase].get(scope, 0) + number
    return counts


def counted(jaxpr: Any, outer: tuple[str, ...], times: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """(names, operations) of every operation, loops unrolled; of a condition's branches the longest counts."""
    for eqn in jaxpr.eqns:
        names = outer + tuple(
            entry.name for entry in eqn.source_info.name_stack.stack if type(entry).__name__ == "Scope"
        )
        bodies = [body for body in jax.tree.leaves(eqn.params, is_leaf=is_jaxpr) if is_jaxpr(body)]
        if eqn.primitive.name == "cond":
            branches = [list(counted(body.jaxpr, names, times)) for body in eqn.params["branches"]]
            yield from max(branches, key=lambda branch: sum(number for _, number in branch))
        elif bodies and not REDUCTIONS.match(eqn.primitive.name):
            repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            for body in bodies:
                yield from counted(getattr(body, "jaxpr", body), names, times * repeats)
        else:
            yield names, times * cost(eqn)


def is_jaxpr(node: Any) -> bool:
    """Whether `node` holds operations."""
    return hasattr(node, "eqns") or hasattr(node, "jaxpr")


def cost(eqn: Any) -> int:
    """The operations of one primitive."""
    name = eqn.primitive.name
    size = prod(eqn.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * size * prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return convolution_cost(eqn)
    if MOVES.match(name):
        return 0
    return prod(eqn.invars[0].aval.shape) if REDUCTIONS.match(name) else size


def convolution_cost(eqn: Any) -> int:
    """2 operations for each entry of the kernel at each output, where it meets an entry of the input and no zero."""
    numbers = eqn.params["dimension_numbers"]
    x, w, y = (variable.aval.shape for variable in (*eqn.invars[:2], eqn.outvars[0]))
    features = y[numbers.out_spec[0]] * y[numbers.out_spec[1]] * w[numbers.rhs_spec[1]]
    meetings = 1
    for i, (low, _) in enumerate(eqn.params["padding"]):
        size, taps, out = (
            shape[spec[i + 2]] for shape, spec in ((x, numbers.lhs_spec), (w, numbers.rhs_spec), (y, numbers.out_spec))
        )
        spread, holes = eqn.params["lhs_dilation"][i], eqn.params["rhs_dilation"][i]
        place = np.arange(out)[:, None] * eqn.params["window_strides"][i] + np.arange(taps) * holes - low
        meetings *= int(np.sum((place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)))
    return 2 * features * meetings // eqn.params["batch_group_count"]


def owner(scope: str, leaves: dict[str, Any]) -> str | None:
    """The leaf layer that an operation under the names `scope` belongs to; None between layers."""
    return next((path for path in leaves if not path or f"{scope}/".startswith(f"{path}/")), None)


def at_path(params: PyTree, path: str) -> PyTree:
    """The parameters at a path; {} where another layer owns them."""
    for name in filter(None, path.split("/")):
        params = params.get(name, {})
    return params


def sizes(params: PyTree) -> tuple[int, int]:
    """(numbers, bytes) of a tree."""
    leaves = jax.tree.leaves(params)
    return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def shape_text(tree: PyTree) -> str:
    """'[5, 3]' of an array; of several, all of them."""
    return ", ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(tree))
