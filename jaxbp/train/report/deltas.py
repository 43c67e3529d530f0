"""How the delta fades or grows on its way back through time: its norm at every step of every recurrent layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxbp.core import Context, Layer, PyTree, leaf_layers, path_name
from jaxbp.layers import Recurrent
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import Loss
from jaxbp.rules import Rule
from jaxbp.train.report.curves import save_figure


def make_delta_norms(
    model: Layer, loss: Loss
) -> Callable[[PyTree, PyTree, Mapping[str, PyTree]], dict[str, list[float]]] | None:
    """(params, model state, batch) -> {path: [T]} for every recurrent layer, or None where there is none.

    Entry t is |dL / da_t| over the batch, a_t the pre-activations of step t of the layer's loop: 0 in a layer whose
    delta does not reach that far back.
    """
    if not any(isinstance(leaf, Recurrent) for leaf in leaf_layers(model)):
        return None
    model = with_carry(model, False)

    def norms(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        dx = layer.backward(params, cache, dy)[0]
        if not isinstance(layer, Recurrent):
            return dx, {}
        return dx, jnp.sqrt(jnp.einsum("ntg,ntg->t", *(layer.factors(params, cache, dy)["wh"].g,) * 2))

    @jax.jit
    def compute(params: PyTree, state: PyTree, batch: Mapping[str, PyTree]) -> PyTree:
        y, cache = model.forward(params, batch["x"], Context(None, state, train=False))
        dy = loss.backward(loss.forward(y, batch["y"], batch["weight"])[1])
        return model.sweep(Rule(norms), params, cache, dy)[1]

    def found(params: PyTree, state: PyTree, batch: Mapping[str, PyTree]) -> dict[str, list[float]]:
        norms = jax.tree_util.tree_leaves_with_path(compute(params, state, batch))
        return {path_name(path): [float(f"{norm:.4g}") for norm in of_layer] for path, of_layer in norms}

    return found


def draw_deltas(norms: Mapping[str, Sequence[float]], path: Path) -> None:
    """The norms over the steps as a PNG."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, norm in norms.items():
        axes.semilogy([value or np.nan for value in norm], label=name)
    axes.set(xlabel="time step", title="norm of the delta")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
