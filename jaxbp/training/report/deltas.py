"""How the delta fades or grows on its way back through time: its norm at every step of every recurrent layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Batch, Context, Layer, PyTree, leaf_layers, path_name
from jaxbp.layers import Recurrent
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import Loss
from jaxbp.rules import Rule
from jaxbp.training.report.curves import new_figure, save_figure

DeltaNorms = Callable[[PyTree, PyTree, Batch], dict[str, list[float]]]


def make_delta_norms(model: Layer, loss: Loss) -> DeltaNorms | None:
    """(params, model state, batch) -> {path: [T]} for every recurrent layer, or None where there is none.

    Entry t is |dL / da_t| over the batch, with a_t [N, G] the pre-activations of all gates at step t of the layer's
    loop. It is 0 where the delta does not reach back to step t.
    """
    if not any(isinstance(leaf, Recurrent) for leaf in leaf_layers(model)):
        return None
    model = with_carry(model, False)

    @jax.jit
    def compute(params: PyTree, state: PyTree, batch: Batch) -> PyTree:
        y, cache = model.forward(params, batch["x"], Context.evaluation(state))
        dy = loss.backward(loss.forward(y, batch["y"], batch["weight"])[1])
        return model.sweep(Rule(_norm_by_step), params, cache, dy)[1]

    def delta_norms(params: PyTree, state: PyTree, batch: Batch) -> dict[str, list[float]]:
        norms = jax.tree_util.tree_leaves_with_path(compute(params, state, batch))
        return {path_name(path): [float(f"{norm:.4g}") for norm in of_layer] for path, of_layer in norms}

    return delta_norms


def _norm_by_step(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    dx, _ = layer.backward(params, cache, dy)
    if not isinstance(layer, Recurrent):
        return dx, {}
    deltas = layer.factors(params, cache, dy)["wx"].g  # [N, T, G]; those of "wh" differ in a GRU
    return dx, jnp.sqrt(jnp.einsum("ntg,ntg->t", deltas, deltas))


def draw_deltas(norms: Mapping[str, Sequence[float]], path: Path) -> None:
    """The norms over the steps as a PNG."""
    figure = new_figure(6, 3.5)
    axes = figure.subplots()
    for name, norm in norms.items():
        axes.semilogy([value or np.nan for value in norm], label=name)
    axes.set(xlabel="time step", title="norm of the delta")
    axes.grid(alpha=0.3)
    for text in axes.legend().get_texts():
        text.set_parse_math(False)
    save_figure(figure, path)
