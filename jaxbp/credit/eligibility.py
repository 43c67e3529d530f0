"""E-prop: credit in recurrent nets by the traces of single units (Bellec et al. 2020, Nature Communications 11, 3625).

    e_t = d_t e_t-1 + ds_t/dw with s_t-1 held fixed         d_t: what a unit's state makes of its own state before
    dw  = sum_t dh_t e_t                                    dh_t the delta of step t's output, from the layers above

The trace e of a weight is the influence of real-time recurrent learning without what runs through other units. The sum
is therefore that of a sweep back in time through recurrent weights of zero, which is how it is computed here: for whole
sequences that costs no more than backpropagation, and the numbers are those of the traces.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, add
from jaxbp.credit.config import Swept
from jaxbp.errors import InputError
from jaxbp.layers import GRUCell, Recurrent
from jaxbp.rules import Rule


@dataclass(frozen=True)
class EProp(Swept):
    """Recurrent layers learn from what each weight has left behind in its own unit.

    Exact where recurrent weights are zero, and in what is no recurrent layer above the recurrent ones. A unit's own
    state counts in full: the potential of a SpikingCell and its reset, the memory of an LSTMCell, the leak of a
    ContinuousCell. (The paper leaves the reset out.) Raises InputError for GRUCell(reset="before"), whose reset gates
    change what other units hear in the same step: that is in no unit's own trace.
    """

    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        return model.sweep(Rule(_take, merge=add), params, cache, dy)[1], kept


def _take(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    if not isinstance(layer, Recurrent):
        return layer.backward(params, cache, dy)
    if layer.keep != "all":
        raise InputError(f"EProp needs all states of a recurrent layer: keep must be all, got {layer.keep}")
    if isinstance(layer.cell, GRUCell) and layer.cell.reset == "before":
        raise InputError("EProp needs GRUCell(reset='after'): a gate that resets before wn acts on other units at once")
    alone = {name: jnp.zeros_like(w) if name == "wh" else w for name, w in params.items()}
    return layer.backward(alone, cache, dy)
