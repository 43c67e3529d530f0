"""Every named number of one pass: each layer's output with its delta, each parameter with its gradient, and the loss.

The layers stand in the order of the forward pass. The table has each derivative twice, by the hand-written backward
pass and by jax.grad of the same forward, with their difference. For the deltas a zero is added to every output: its
derivative is dL / d output, both ways. A layer in a Stack has the depth as first axis, and the two uses of tied layers
are added up. The inputs, where they are numbers, are the last row, `x`: there the pass backward ends. A model that is
not recorded pays nothing for this.

A penalty has rows of its own, `penalty/00_dense/w`: its part of the gradient is not in the rows above. Under a credit
rule that sends other deltas back, each row also has what was sent, and its cosine to the true derivative.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.backprop import item_weights, value_and_grad
from jaxbp.check import autodiff
from jaxbp.core import Batch, Context, Layer, PyTree, Static, map_leaves, path_name
from jaxbp.losses import Loss
from jaxbp.rules import Rule
from jaxbp.wrappers import Kept, Shift, kept_in_order

SHORT = 4  # numbers of an array that the table prints
HEAD = ("name", "shape", "value", "by hand", "autodiff", "difference")


@dataclass(frozen=True, eq=False)
class Row:
    """One array of the pass; by_hand and autodiff are the loss's derivative in it."""

    name: str  # "00_dense" is that layer's output, "00_dense/w" its parameter
    kind: Literal["output", "parameter", "input", "penalty"]
    formula: str  # the first line of the layer's docstring; "" for parameters
    value: np.ndarray
    by_hand: np.ndarray
    autodiff: np.ndarray
    sent: np.ndarray | None = None  # what a credit rule has in the derivative's place; None of backpropagation

    @property
    def difference(self) -> float:
        """The largest difference between the derivatives, relative to the largest entry; 0 where both are zero.

        nan where an entry is not finite.
        """
        largest = np.maximum(np.abs(self.autodiff).max(initial=0), np.abs(self.by_hand).max(initial=0))
        with np.errstate(invalid="ignore"):
            return float(np.abs(self.by_hand - self.autodiff).max(initial=0) / largest) if largest else 0.0

    @property
    def cosine(self) -> float | None:
        """Of the angle between what was sent and the derivative; None where either is zero, or nothing was sent."""
        if self.sent is None:
            return None
        lengths = float(np.linalg.norm(self.sent) * np.linalg.norm(self.by_hand))
        return float(np.vdot(self.sent, self.by_hand)) / lengths if lengths else None

    def cells(self, with_sent: bool) -> tuple[str, ...]:
        """The row as the table prints it, below the head."""
        shape = "x".join(map(str, self.value.shape))
        arrays = (short(self.value), short(self.by_hand), short(self.autodiff))
        sent = "" if self.sent is None else short(self.sent)
        cosine = "" if self.cosine is None else f"{self.cosine:.4f}"
        instead = (sent, cosine) if with_sent else ()
        return (self.name, shape, *arrays, f"{self.difference:.1e}", *instead, self.formula)

    def to_json(self) -> dict[str, Any]:
        """Everything, arrays as lists."""
        return {
            "name": self.name,
            "kind": self.kind,
            "formula": self.formula,
            "shape": list(self.value.shape),
            "value": self.value.tolist(),
            "by_hand": self.by_hand.tolist(),
            "autodiff": self.autodiff.tolist(),
            "difference": self.difference,
        } | ({} if self.sent is None else {"sent": self.sent.tolist(), "cosine": self.cosine})


@dataclass(frozen=True, eq=False)
class Record:
    """The rows in forward order; a layer's output stands before its parameters."""

    value: float  # the loss
    rows: tuple[Row, ...]
    penalty: float | None = None  # what is added to the loss; None where there is none

    def __str__(self) -> str:
        with_sent = any(row.sent is not None for row in self.rows)
        head = (*HEAD, *(("sent back", "cosine") if with_sent else ()), "formula")
        table = [head, *(row.cells(with_sent) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        loss = f"loss {self.value:.10g}"
        if self.penalty is not None:
            loss += f" + penalty {self.penalty:.10g} = {self.value + self.penalty:.10g}"
        return "\n".join([*lines, "", loss])

    def to_json(self) -> dict[str, Any]:
        """Everything, arrays as lists."""
        penalty = {} if self.penalty is None else {"penalty": self.penalty}
        return {"loss": self.value, **penalty, "rows": [row.to_json() for row in self.rows]}

    def to_npz(self) -> bytes:
        """An archive of the arrays NAME.value, NAME.by_hand and NAME.autodiff, and NAME.sent where something was.

        A row whose name an earlier one has, as of a layer named x, has its kind in front: "input x.value".
        """
        arrays: dict[str, Any] = {}
        for row in self.rows:
            name = f"{row.kind} {row.name}" if f"{row.name}.value" in arrays else row.name
            arrays[f"{name}.value"] = row.value
            arrays[f"{name}.by_hand"] = row.by_hand
            arrays[f"{name}.autodiff"] = row.autodiff
            if row.sent is not None:
                arrays[f"{name}.sent"] = row.sent
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()


def record(model: Layer, loss: Loss, params: PyTree, batch: Batch, ctx: Context = Context()) -> Record:
    """One pass over the batch {"x", "y", "weight"}, as in value_and_grad."""
    return recorder(model, loss, params, batch)(params, batch, ctx)


def recorder(model: Layer, loss: Loss, params: PyTree, batch: Batch) -> Callable[[PyTree, Batch, Context], Record]:
    """`record` for parameters and batches of these shapes, compiled once."""
    keeping = kept_in_order(model)
    shifted = map_leaves(model, Shift)
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch["x"])
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(params)), jnp.float32)
    shifted_spec = jax.eval_shape(shifted.init, jax.random.key(0), spec)

    def input_delta(params: PyTree, batch: Batch, ctx: Context) -> PyTree:
        prepared = loss.prepared(shifted)
        x, ctx = ctx.counted(batch)
        y, cache = prepared.forward(params, x, ctx)
        _, loss_cache = loss.forward(y, batch["y"], item_weights(batch, y))
        return prepared.backward(params, cache, loss.backward(loss_cache))[0]

    def input_gradient(params: PyTree, batch: Batch, ctx: Context) -> PyTree:
        return jax.grad(lambda x: autodiff(shifted, loss)(params, batch | {"x": x}, ctx).value)(batch["x"])

    @jax.jit
    def run(params: PyTree, shifted_params: PyTree, batch: Batch, ctx: Context) -> tuple:
        x, counting = ctx.counted(batch)
        y, cache = keeping.forward(params, x, counting)
        outputs = keeping.sweep(Rule(_output), params, cache, jax.tree.map(jnp.zeros_like, y))[1]
        by_hand = value_and_grad(shifted, loss)(shifted_params, batch, ctx)
        by_autodiff = autodiff(shifted, loss)(shifted_params, batch, ctx)
        deltas = [f(shifted_params, batch, ctx) for f in (input_delta, input_gradient)] if is_numbers else []
        return by_hand.value, outputs, by_hand.grads, by_autodiff.grads, deltas

    is_numbers = isinstance(spec, jax.ShapeDtypeStruct) and jnp.issubdtype(spec.dtype, jnp.floating)

    def recorded(params: PyTree, batch: Batch, ctx: Context) -> Record:
        numbers = run(params, _with_shifts(shifted_spec, params, dtype), batch, ctx)
        value, outputs, by_hand, by_autodiff, deltas = jax.device_get(numbers)
        layers = sorted(_layers("", outputs, jax.device_get(params), by_hand, by_autodiff), key=itemgetter(0))
        rows = [row for _, rows in layers for row in rows]
        inputs = [Row("x", "input", "the inputs", np.asarray(batch["x"]), *deltas)] if is_numbers else []
        return Record(float(value), (*rows, *inputs))

    return recorded


def _output(layer: Any, params: PyTree, cache: Kept, dy: PyTree) -> tuple[PyTree, tuple[PyTree, Static]]:
    """The rule that takes, at each leaf layer in its Keep, the output, the index and the docstring's first line."""
    formula = (type(layer.inner).__doc__ or "").strip().split("\n")[0]
    return layer.backward(params, cache, dy)[0], (cache.y, Static((layer.index, formula)))


def _with_shifts(node: PyTree, params: PyTree, dtype: Any) -> PyTree:
    """The parameters of the shifted model, whose init has the tree `node`: `params`, and shifts of zero."""
    if node.keys() == {"inner", "shift"}:
        return {"inner": params, "shift": jnp.zeros(node["shift"].shape, dtype)}
    return {name: _with_shifts(child, params[name], dtype) for name, child in node.items()}


def _layers(
    path: str, outputs: PyTree, params: PyTree, by_hand: PyTree, by_autodiff: PyTree
) -> Iterator[tuple[int, list[Row]]]:
    """(index of the Keep, rows) of each leaf layer: its output, then its parameters."""
    if isinstance(outputs, dict):
        for name, output in outputs.items():
            if name in by_hand:  # else it uses the parameters of another layer, and is in that one's rows
                child = f"{path}/{name}" if path else name
                yield from _layers(child, output, params[name], by_hand[name], by_autodiff[name])
        return
    output, static = outputs
    index, formula = static.value
    rows = [Row(path, "output", formula, output, by_hand["shift"], by_autodiff["shift"])]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    gradients = zip(jax.tree.leaves(by_hand["inner"]), jax.tree.leaves(by_autodiff["inner"]), strict=True)
    for (key_path, value), (hand, auto) in zip(leaves, gradients, strict=True):
        rows.append(Row(f"{path}/{path_name(key_path)}", "parameter", "", value, hand, auto))
    yield index, rows


def short(a: np.ndarray) -> str:
    """The numbers of a small array, or the range of a large one."""
    if a.size <= SHORT:
        return " ".join(f"{number:.6g}" for number in a.ravel().tolist())
    return f"{float(a.min()):.3g} to {float(a.max()):.3g}"  # both are nan where an entry is
