"""What attention looks at: a picture of the weights of every head of a model, for one text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree, path_name
from jaxbp.errors import InputError
from jaxbp.layers.recurrent import with_carry
from jaxbp.ops.scaled_dot_product import Stored
from jaxbp.training.report.curves import new_figure, save_figure
from jaxbp.training.report.language import once

NAMED = 40  # tokens at most whose names stand at the axes


def attention_maps(model: Layer, params: PyTree, state: PyTree, ids: np.ndarray) -> dict[str, np.ndarray]:
    """{path of an attention: weights [heads, T, S] of its queries T on its keys S} for ids [T], in evaluation.

    The blocks of a Stack have their number behind the path. Raises InputError for a model without attention.
    """
    keeping = once(with_carry(model, 0))

    @jax.jit
    def weights(params: PyTree, x: jax.Array) -> dict[str, jax.Array]:
        _, cache = keeping.forward(params, x, Context.evaluation(state))
        nodes = jax.tree_util.tree_leaves_with_path(cache, is_leaf=lambda node: isinstance(node, Stored))
        return {path_name(path[:-1]): node.e / node.total for path, node in nodes if isinstance(node, Stored)}

    maps = {}
    for path, array in weights(params, jnp.asarray(ids, jnp.int32)[None]).items():
        blocks = np.asarray(array).reshape(-1, array.shape[-4] * array.shape[-3], *array.shape[-2:])
        for i, block in enumerate(blocks):
            maps[f"{path} {i}" if len(blocks) > 1 else path] = block
    if not maps:
        raise InputError("the model has no attention")
    return maps


def draw_attention(maps: dict[str, np.ndarray], names: Sequence[str], path: Path) -> None:
    """A row of panels for each attention, a panel for each head; dark is a large weight. names: of the tokens."""
    most = max(len(heads) for heads in maps.values())
    figure = new_figure(2.2 * most + 0.8, 2.4 * len(maps))
    grid = figure.subplots(len(maps), most, squeeze=False)
    for row, (label, heads) in zip(grid, maps.items(), strict=True):
        for axes in row[len(heads) :]:
            axes.axis("off")
        for i, (axes, weights) in enumerate(zip(row, heads, strict=False)):
            axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"head {i}", fontsize=7)
            few = len(names) <= NAMED
            text = {"fontsize": 5, "parse_math": False}  # a $ in a token is a $
            axes.set_xticks(range(len(names)) if few else [], names if few else [], rotation=90, **text)
            axes.set_yticks(range(len(names)) if few and i == 0 else [], names if few and i == 0 else [], **text)
        row[0].set_ylabel(label, fontsize=6)
    save_figure(figure, path)
