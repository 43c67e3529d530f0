"""Every named number of one pass: each layer's output with its delta, each parameter with its gradient, and the loss.

The derivatives stand there twice, by the hand-written backward pass and by jax.grad of the same forward, with their
difference. For the deltas a zero is added to every output, whose derivative both ways is dL / d output; a layer under a
Stack has the depth as first axis, and of tied layers both uses are added up. Nothing of it is in a model that is not
traced.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.backprop import value_and_grad
from jaxbp.check import autodiff
from jaxbp.core import Batch, Context, Layer, PyTree, Static, map_leaves, path_name
from jaxbp.losses import Loss
from jaxbp.rules import Rule
from jaxbp.wrappers import Keep, Kept, Shift

SHORT = 4  # numbers of an array that the table prints


@dataclass(frozen=True, eq=False)
class Row:
    """One array of the pass; by_hand and autodiff are the loss's derivative in it."""

    name: str  # "00_dense" is that layer's output, "00_dense/w" its parameter
    formula: str  # what the layer is, in its own words; "" for parameters
    value: np.ndarray
    by_hand: np.ndarray
    autodiff: np.ndarray

    @property
    def difference(self) -> float:
        """The largest difference between the derivatives, relative to the largest entry; 0 where both are zero."""
        largest = max(np.abs(self.autodiff).max(initial=0), np.abs(self.by_hand).max(initial=0))
        return float(np.abs(self.by_hand - self.autodiff).max(initial=0) / largest) if largest else 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it, arrays as lists."""
        return {
            "name": self.name,
            "formula": self.formula,
            "shape": list(self.value.shape),
            "value": self.value.tolist(),
            "by_hand": self.by_hand.tolist(),
            "autodiff": self.autodiff.tolist(),
            "difference": self.difference,
        }


@dataclass(frozen=True, eq=False)
class Record:
    """The rows by name, which in a Chain is forward order; a layer's output stands before its parameters."""

    value: float  # the loss
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        head = ("name", "shape", "value", "by hand", "autodiff", "difference", "formula")
        cells = [
            head,
            *(
                (
                    r.name,
                    "x".join(map(str, r.value.shape)),
                    short(r.value),
                    short(r.by_hand),
                    short(r.autodiff),
                    f"{r.difference:.1e}",
                    r.formula,
                )
                for r in self.rows
            ),
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([*lines, "", f"loss {self.value:.10g}"])

    def to_json(self) -> dict[str, Any]:
        return {"loss": self.value, "rows": [row.to_json() for row in self.rows]}

    def to_npz(self) -> bytes:
        """An archive of the arrays, NAME.value, NAME.by_hand and NAME.autodiff."""
        file = io.BytesIO()
        np.savez(
            file,
            **{
                f"{row.name}.{kind}": getattr(row, kind)
                for row in self.rows
                for kind in ("value", "by_hand", "autodiff")
            },
        )
        return file.getvalue()


def record(model: Layer, loss: Loss, params: PyTree, batch: Batch, ctx: Context = Context()) -> Record:
    """One pass over the batch {"x", "y", "weight"}, as in value_and_grad."""
    shifted = map_leaves(model, Shift)
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch["x"])
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(params)), jnp.float32)
    zeros = _beside(jax.eval_shape(shifted.init, jax.random.key(0), spec), params, dtype)

    @jax.jit
    def run(params: PyTree, zeros: PyTree, batch: Batch, ctx: Context) -> tuple:
        keeping = map_leaves(model, Keep)
        y, cache = keeping.forward(params, batch["x"], ctx)
        values = keeping.sweep(Rule(_output), params, cache, jax.tree.map(jnp.zeros_like, y))[1]
        by_hand, auto = (gradient(shifted, loss)(zeros, batch, ctx) for gradient in (value_and_grad, autodiff))
        return by_hand.value, values, by_hand.grads, auto.grads

    value, values, by_hand, auto = jax.device_get(run(params, zeros, batch, ctx))
    return Record(float(value), tuple(_rows("", values, jax.device_get(params), by_hand, auto)))


def _output(layer: Keep, params: PyTree, cache: Kept, dy: PyTree) -> tuple[PyTree, tuple[PyTree, Static]]:
    """The rule that takes each layer's output, and what the layer says of itself."""
    formula = (type(layer.inner).__doc__ or "").strip().split("\n")[0]
    return layer.backward(params, cache, dy)[0], (cache.y, Static(formula))


def _beside(node: PyTree, params: PyTree, dtype: Any) -> PyTree:
    """The parameters of the shifted model: `params`, and zeros where its init has a shift."""
    if node.keys() == {"inner", "shift"}:
        return {"inner": params, "shift": jnp.zeros(node["shift"].shape, dtype)}
    return {name: _beside(child, params[name], dtype) for name, child in node.items()}


def _rows(path: str, values: PyTree, params: PyTree, by_hand: PyTree, auto: PyTree) -> list[Row]:
    """Of a tree of layers: of each leaf its output and its parameters."""
    if isinstance(values, dict):
        join = lambda name: f"{path}/{name}" if path else name
        parts = ((join(n), *(tree[n] for tree in (values, params, by_hand, auto))) for n in values if n in by_hand)
        return [row for part in parts for row in _rows(*part)]
    output, formula = values
    rows = [Row(path, formula.value, *map(np.asarray, (output, by_hand["shift"], auto["shift"])))]
    for (where, value), hand, theirs in zip(
        jax.tree_util.tree_leaves_with_path(params),
        *map(jax.tree.leaves, (by_hand["inner"], auto["inner"])),
        strict=True,
    ):
        rows.append(Row(f"{path}/{path_name(where)}", "", *map(np.asarray, (value, hand, theirs))))
    return rows


def short(a: np.ndarray) -> str:
    """The numbers of a small array, or the range of a large one."""
    numbers: Sequence[float] = a.ravel().tolist()
    if len(numbers) <= SHORT:
        return " ".join(f"{number:.6g}" for number in numbers)
    return f"{min(numbers):.3g} to {max(numbers):.3g}"
