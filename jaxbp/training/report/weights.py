"""Pictures of a network's weights: rows on pixels as tiles, other matrices as heat maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jaxbp.core import PyTree, path_name
from jaxbp.training.report.curves import new_figure, save_figure
from jaxbp.training.report.page import Part, drawn
from jaxbp.training.report.pictures import filter_panels, image_shape, panels_figure, tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12
MOST = 512  # rows, and columns, of one heat map
MEANING = (
    "The rows of a matrix are its units, the columns their inputs. Red is above 0, blue below. "
    "Weights on the pixels of an image are a tile for each unit, each in its own grey scale."
)


class Panel(NamedTuple):
    """One picture of weights."""

    title: str
    picture: np.ndarray  # [rows, columns]
    is_tiles: bool  # grey from 0 to 1


def draw_weights(params: PyTree, x: np.ndarray, path: Path) -> None:
    """The matrices of weights; x [N, ...] are rows of the data. A model without matrices leaves no file."""
    if panels := weight_panels(params, x):
        save_figure(weights_figure(panels), path)


def weight_parts(params: PyTree, x: np.ndarray) -> list[Part]:
    """The kernels of the convolutions, and the matrices of weights, for the report."""
    parts = []
    if kernels := filter_panels(params):
        parts.append(Part("Kernels", drawn(panels_figure(kernels))))
    if panels := weight_panels(params, x):
        parts.append(Part("Weights", drawn(weights_figure(panels)), texts=[MEANING]))
    return parts


def weight_panels(params: PyTree, x: np.ndarray) -> list[Panel]:
    """The first matrices w [O, I] of the parameters. The first whose I is the size of an image has images as rows."""
    shape = image_shape(x)
    panels: list[Panel] = []
    for keys, w in jax.tree_util.tree_leaves_with_path(params):
        if w.ndim != 2:
            continue
        w = np.asarray(w, np.float32)
        title = f"{path_name(keys)} [{w.shape[0]}, {w.shape[1]}]"
        if shape is not None and w.shape[1] == np.prod(shape) and not any(panel.is_tiles for panel in panels):
            planes = np.moveaxis(w.reshape(-1, *shape), -1, 1).reshape(-1, *shape[:2])  # [O C, H, W]
            panels.append(Panel(title, tiles(planes), True))
        else:
            shown = w[:MOST, :MOST]
            cut = f", first {shown.shape[0]} x {shown.shape[1]}" if shown.size < w.size else ""
            panels.append(Panel(title + cut, shown, False))
    return panels[:MOST_PANELS]


def weights_figure(panels: list[Panel]) -> Figure:
    """The panels, at most four in a row. White is 0 in a heat map."""
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(3.6 * columns, 4), 3.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
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
