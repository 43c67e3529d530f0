"""Pictures of a network on images: its kernels, the output of each layer for one image, and the mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxbp.core import Context, Layer, PyTree, map_leaves, path_name
from jaxbp.training.report.curves import new_figure, save_figure
from jaxbp.training.report.scores import printable
from jaxbp.wrappers import Keep, Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TILES = 256  # in one panel
MOST_MISTAKES = 100


def draw_filters(params: PyTree, path: Path) -> None:
    """The kernels of every convolution. A model without kernels larger than 1 x 1 leaves no file."""
    if panels := filter_panels(params):
        draw_panels(panels, path)


def filter_panels(params: PyTree) -> dict[str, np.ndarray]:
    """The kernels of every convolution, each of the O I planes in its own grey scale."""
    panels = {}
    for keys, w in jax.tree_util.tree_leaves_with_path(params):
        if is_kernel(w):
            planes = np.moveaxis(np.asarray(w), -1, 1).reshape(-1, *w.shape[1:3])  # [O I, H, W]
            panels[f"{path_name(keys)}, {min(len(planes), MOST_TILES)} of {len(planes)}"] = tiles(planes)
    return panels


def is_kernel(w: jax.Array) -> bool:
    """Whether a parameter is a kernel [O, H, W, I] larger than 1 x 1."""
    return w.ndim == 4 and w.shape[1] * w.shape[2] > 1


def draw_activations(model: Layer, params: PyTree, state: PyTree, image: np.ndarray, path: Path) -> None:
    """The channels of an image [H, W, C], and those of every layer whose output is an image."""
    panels = {"input": tiles(np.moveaxis(image, -1, 0))}
    for name, y in outputs(model, params, state, image[None]).items():
        if y.ndim == 4 and y.shape[1] > 1:
            panels[name] = tiles(np.moveaxis(y[0], -1, 0))
    draw_panels(panels, path)


def outputs(model: Layer, params: PyTree, state: PyTree, x: np.ndarray) -> dict[str, np.ndarray]:
    """The output of every leaf layer by its path, in evaluation."""
    return {name: np.asarray(node.y) for name, node in passed(model, params, state, x).items()}


def passed(model: Layer, params: PyTree, state: PyTree, x: np.ndarray) -> dict[str, Kept]:
    """The input and the output of every leaf layer by its path, in evaluation."""
    keeping = map_leaves(model, Keep)
    ctx = Context.evaluation(state)
    cache = jax.jit(lambda params, x: keeping.forward(params, x, ctx)[1])(params, x)
    nodes = jax.tree_util.tree_leaves_with_path(cache, is_leaf=lambda node: isinstance(node, Kept))
    return {path_name(keys): node for keys, node in nodes}


def draw_mistakes(x: np.ndarray, true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The first images of x [N, H, W, C] that got a wrong class [N], with truth and prediction."""
    wrong = np.flatnonzero(true != predicted)
    names = printable(classes)
    columns = 10
    rows = max(-(-min(len(wrong), MOST_MISTAKES) // columns), 1)
    figure = new_figure(columns, 1.25 * rows + 0.5)
    figure.suptitle(f"{len(wrong)} of {len(x)} wrong, as truth > prediction (row number)", fontsize=9)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, row in zip(grid, wrong, strict=False):
        axes.imshow(shown(x[row]), cmap="gray")
        axes.set_title(f"{names[true[row]]} > {names[predicted[row]]}  ({row})", fontsize=7, parse_math=False)
    save_figure(figure, path)


def draw_panels(panels: Mapping[str, np.ndarray], path: Path) -> None:
    """Pictures side by side under their names, four in a row."""
    save_figure(panels_figure(panels), path)


def panels_figure(panels: Mapping[str, np.ndarray]) -> Figure:
    """Pictures side by side under their names, four in a row."""
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = new_figure(3.5 * columns, 3.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, (name, picture) in zip(grid, panels.items(), strict=False):
        axes.imshow(picture, cmap="gray", interpolation="nearest")
        axes.set_title(name, fontsize=8, parse_math=False)
    return figure


def tiles(images: np.ndarray) -> np.ndarray:
    """The first of images [K, H, W], each stretched to 0..1, as one nearly square picture with lines between them."""
    images = np.asarray(images[:MOST_TILES], np.float32)
    low = np.min(images, axis=(1, 2), keepdims=True)
    high = np.max(images, axis=(1, 2), keepdims=True)
    images = (images - low) / np.where(high > low, high - low, 1)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    missing = ((0, rows * columns - len(images)), (0, 1), (0, 1))
    whole = np.pad(images, missing, constant_values=0.5)  # [rows columns, H + 1, W + 1]
    whole = whole.reshape(rows, columns, *whole.shape[1:]).swapaxes(1, 2)
    return whole.reshape(rows * whole.shape[1], -1)[:-1, :-1]


def image_shape(x: np.ndarray) -> tuple[int, int, int] | None:
    """(H, W, C) of rows [N, H, W, C], (H, H, 1) of rows [N, H H] with at least 36 entries, or else None."""
    if x.ndim == 4:
        height, width, channels = x.shape[1:]
        return height, width, channels
    side = int(np.sqrt(x.shape[-1]))
    return (side, side, 1) if x.ndim == 2 and side >= 6 and side * side == x.shape[-1] else None


def shown(image: np.ndarray) -> np.ndarray:
    """[H, W, C] as [H, W, 3], or as [H, W], its first channel."""
    return image if image.shape[-1] == 3 else image[..., 0]
