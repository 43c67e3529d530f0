"""What can be seen of a network on images: its kernels, what each layer makes of an image, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from jaxbp.core import Context, Layer, PyTree, map_leaves, path_name
from jaxbp.train.report.curves import save_figure
from jaxbp.wrappers import Keep, Kept

MOST = 256  # small pictures in one panel
SHOWN = 100  # mistakes


def draw_filters(params: PyTree, path: Path) -> None:
    """The kernels w [O, H, W, I] of every convolution, each of the O I planes in its own grey scale; none, no file."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = {
        path_name(keys): np.moveaxis(np.asarray(w), -1, 1).reshape(-1, *w.shape[1:3])
        for keys, w in leaves
        if w.ndim == 4 and w.shape[1] * w.shape[2] > 1
    }
    if kernels:
        draw_panels({f"{name}, {min(len(w), MOST)} of {len(w)}": tiles(w) for name, w in kernels.items()}, path)


def draw_activations(model: Layer, params: PyTree, state: PyTree, image: np.ndarray, path: Path) -> None:
    """An image [H, W, C], and the channels that every layer with an image for its output makes of it."""
    found = outputs(model, params, state, image[None])
    images = {name: np.moveaxis(y[0], -1, 0) for name, y in found.items() if y.ndim == 4 and y.shape[1] > 1}
    panels = {"input": np.moveaxis(image, -1, 0)} | images
    draw_panels({name: tiles(channels) for name, channels in panels.items()}, path)


def outputs(model: Layer, params: PyTree, state: PyTree, x: np.ndarray) -> dict[str, np.ndarray]:
    """The output of every leaf layer by its path, in evaluation."""
    keeping, ctx = map_leaves(model, Keep), Context(None, state, train=False)
    cache = jax.jit(lambda params, x: keeping.forward(params, x, ctx)[1])(params, x)
    nodes = jax.tree_util.tree_leaves_with_path(cache, is_leaf=lambda node: isinstance(node, Kept))
    return {path_name(keys): np.asarray(node.y) for keys, node in nodes}


def draw_mistakes(x: np.ndarray, true: np.ndarray, predicted: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The first images of x [N, H, W, C] that got a wrong class [N], with truth and prediction."""
    wrong = np.flatnonzero(true != predicted)
    columns = 10
    rows = max(-(-min(len(wrong), SHOWN) // columns), 1)
    figure = Figure(figsize=(columns, 1.25 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{len(wrong)} of {len(x)} wrong, as truth > prediction (row number)", fontsize=9)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.axis("off")
    for place, row in zip(axes, wrong, strict=False):
        place.imshow(shown(x[row]), cmap="gray")
        place.set_title(f"{classes[true[row]]} > {classes[predicted[row]]}  ({row})", fontsize=7)
    save_figure(figure, path)


def draw_panels(panels: Mapping[str, np.ndarray], path: Path) -> None:
    """Pictures side by side under their names, four in a row."""
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.axis("off")
    for place, (name, picture) in zip(axes, panels.items(), strict=False):
        place.imshow(picture, cmap="gray", interpolation="nearest")
        place.set_title(name, fontsize=8)
    save_figure(figure, path)


def tiles(images: np.ndarray) -> np.ndarray:
    """The first MOST of images [K, H, W], each stretched to 0..1, as one nearly square picture with lines between."""
    images = np.asarray(images[:MOST], np.float32)
    low, high = (f(images, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    images = (images - low) / np.where(high > low, high - low, 1)
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    missing = ((0, rows * columns - len(images)), (0, 1), (0, 1))
    whole = np.pad(images, missing, constant_values=0.5)  # [rows columns, H + 1, W + 1]
    whole = whole.reshape(rows, columns, *whole.shape[1:]).swapaxes(1, 2)
    return whole.reshape(rows * whole.shape[1], -1)[:-1, :-1]


def shown(image: np.ndarray) -> np.ndarray:
    """[H, W, C] as [H, W, 3], or as [H, W], its first channel."""
    return image if image.shape[-1] == 3 else image[..., 0]
