"""Pictures of a network's parameters: weights on the pixels of an image as tiles, other arrays as heat maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Layer, PyTree, path_name
from jaxbp.training.report.curves import new_figure, save_figure
from jaxbp.training.report.page import Part, drawn
from jaxbp.training.report.pictures import (
    MOST_TILES,
    filter_panels,
    image_shape,
    is_kernel,
    panels_figure,
    passed,
    tiles,
)
from jaxbp.training.run import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12
MOST = 512  # rows, and columns, of one heat map
MEANING = (
    "Every array is as the layer stores it, the last axis across and the others down: of a dense layer's w, a row is a "
    "unit and a column an input. Red is above 0, blue below. Where a layer's inputs are a row of the data, and that is "
    "an image or as many numbers as a square one has, w has a tile for each unit and colour channel, each in its own "
    "grey scale."
)


class Panel(NamedTuple):
    """One picture of weights."""

    title: str
    picture: np.ndarray  # [rows, columns]
    is_tiles: bool  # grey from 0 to 1


def draw_weights(run: Trained, x: np.ndarray, path: Path) -> None:
    """The arrays of parameters; x [N, ...] are rows of the data. A model without any leaves no file."""
    if panels := weight_panels(run.model, run.params, run.state, x):
        save_figure(weights_figure(panels, len(arrays(run.params))), path)


def weight_parts(run: Trained, x: np.ndarray) -> list[Part]:
    """The kernels of the convolutions, and the other arrays of parameters, for the report."""
    parts = []
    if kernels := filter_panels(run.params):
        parts.append(Part("Kernels", drawn(panels_figure(kernels))))
    if panels := weight_panels(run.model, run.params, run.state, x):
        figure = weights_figure(panels, len(arrays(run.params)))
        parts.append(Part("Weights", drawn(figure), texts=[MEANING]))
    return parts


def arrays(params: PyTree) -> dict[str, jax.Array]:
    """The parameters of two axes or more by their paths, without what `filter_panels` shows."""
    leaves = {path_name(keys): w for keys, w in jax.tree_util.tree_leaves_with_path(params)}
    return {name: w for name, w in leaves.items() if w.ndim > 1 and not is_kernel(w)}


def weight_panels(model: Layer, params: PyTree, state: PyTree, x: np.ndarray) -> list[Panel]:
    """The first arrays of the parameters; x [N, ...] are rows of the data."""
    panels = []
    of_params = dict(list(arrays(params).items())[:MOST_PANELS])
    shape = image_shape(x)
    on_image = {name for name, w in of_params.items() if w.ndim == 2 and shape and w.shape[1] == np.prod(shape)}
    on_image &= on_pixels(model, params, state, x) if on_image else set()
    for name, array in of_params.items():
        w = np.asarray(array, np.float32)
        title = f"{name} {list(w.shape)}"
        if shape is not None and name in on_image:
            planes = np.moveaxis(w.reshape(-1, *shape), -1, 1).reshape(-1, *shape[:2])  # [O C, H, W]
            cut = f", first {MOST_TILES} of {len(planes)} tiles" if len(planes) > MOST_TILES else ""
            panels.append(Panel(title + cut, tiles(planes), True))
        else:
            rows = w.reshape(-1, w.shape[-1])
            shown = rows[:MOST, :MOST]
            cut = f", first {shown.shape[0]} x {shown.shape[1]}" if shown.size < w.size else ""
            panels.append(Panel(title + cut, shown, False))
    return panels


def on_pixels(model: Layer, params: PyTree, state: PyTree, x: np.ndarray) -> set[str]:
    """The paths of the w of layers whose inputs are the numbers of a row of x, in their order."""
    row = np.random.default_rng(0).normal(size=(1, *x.shape[1:])).astype(x.dtype)

    def is_row(a: PyTree) -> bool:
        is_number = isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.floating)  # ids are no pixels
        return is_number and a.size == row.size and np.allclose(a.ravel(), row.ravel(), rtol=0.01)

    return {f"{name}/w".lstrip("/") for name, node in passed(model, params, state, row).items() if is_row(node.x)}


def weights_figure(panels: list[Panel], count: int) -> Figure:
    """The panels, the first of `count`, at most four in a row. White is 0 in a heat map."""
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(3.6 * columns, 4), 3.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    if len(panels) < count:
        figure.suptitle(f"The first {len(panels)} of {count} arrays", fontsize=9)
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid, panels, strict=False):
        axes.set_title(panel.title[-60:], fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
        if panel.is_tiles:
            axes.axis("off")
            axes.imshow(panel.picture, cmap="gray", interpolation="nearest")
            continue
        reach = np.nanmax(np.abs(panel.picture), initial=0) or 1
        picture = axes.imshow(
            panel.picture, aspect="auto", cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest"
        )
        axes.locator_params(integer=True, nbins=6)
        figure.colorbar(picture, ax=axes).ax.tick_params(labelsize=7)
    return figure
