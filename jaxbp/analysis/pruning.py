"""Cuts: which weights a net needs least, by their magnitude or by their saliency, "optimal brain damage".

    E(w with w_k = 0) - E(w)  =  -g_k w_k + h_kk w_k^2 / 2 + ...            saliency: h_kk w_k^2 / 2, at a minimum g = 0

(LeCun, Denker & Solla 1990, Advances in Neural Information Processing Systems 2.) Cuts of several weights at once add
up where the Hessian's other entries are left out. The diagonal h_kk is that of the Gauss-Newton matrix. It is the exact
diagonal of the Hessian where the outputs are linear in each single weight: in nets of Dense, Conv and ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_leaves_with_path

from jaxbp.analysis import curvature
from jaxbp.core import Batch, Context, Layer, PyTree, path_name, shapes_text
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.typed import Pattern, fits

LINKS = r"(.*/)?w[xhn]?"


def magnitudes(params: PyTree) -> PyTree:
    """Like params: |w|."""
    return jax.tree.map(jnp.abs, params)


def saliencies(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params: h_kk w_k^2 / 2, about what the batch's loss rises by without that weight.

    Raises InputError where a layer mixes the examples of a batch.
    """
    diagonal = curvature.diagonal(model, loss, "gauss_newton")

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        return jax.tree.map(lambda h, w: h * w * w / 2, diagonal(params, batch, ctx), params)

    return run


def cut(params: PyTree, scores: PyTree, left: float, paths: str = LINKS) -> PyTree:
    """params, of which the share `left` in [0, 1] with the highest scores stays, and the others are zero.

    The share counts all parameters together whose path ('00_dense/w') `paths` matches; the others stay. By default it
    matches the weights of links, named w, or wx, wh and wn in recurrent cells. Not to be traced. Raises InputError
    where nothing matches, the share is none, or the scores are nan or not like params.
    """
    if not fits(paths, Pattern):
        raise InputError(f"cut: paths must be a regular expression, got '{paths}'")
    shapes_of = lambda tree: [(path_name(path), jnp.shape(leaf)) for path, leaf in tree_leaves_with_path(tree)]
    if shapes_of(scores) != shapes_of(params):
        raise InputError(f"cut: scores must be like params, {shapes_text(params)}; got {shapes_text(scores)}")
    if not 0 <= left <= 1:
        raise InputError(f"cut: left, the share of weights that stay, must lie in [0, 1], got {left}")
    leaves, tree = tree_leaves_with_path(params), jax.tree.structure(params)
    matches = [re.fullmatch(paths, path_name(path)) is not None for path, _ in leaves]
    if not any(matches):
        raise InputError(
            f"cut: '{paths}' matches no parameter (there are: {', '.join(path_name(p) for p, _ in leaves)})"
        )
    score = [np.asarray(s) for s, match in zip(jax.tree.leaves(scores), matches, strict=True) if match]
    flat = np.concatenate([s.ravel() for s in score])
    if np.isnan(flat).any():
        raise InputError(f"cut: {np.isnan(flat).sum()} of {len(flat)} scores are nan")
    order = np.argsort(-flat, kind="stable")
    stays = np.zeros(len(order), bool)
    stays[order[: round(left * len(order))]] = True
    parts = iter(np.split(stays, np.cumsum([s.size for s in score])[:-1]))
    after = [
        jnp.where(next(parts).reshape(w.shape), w, 0) if m else w for (_, w), m in zip(leaves, matches, strict=True)
    ]
    return jax.tree.unflatten(tree, after)
