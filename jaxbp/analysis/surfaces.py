"""The loss as a surface over the weights, and paths on it.

bowl        of a linear neuron, L(w) = (1 / 2N) sum_n (w x_n - t_n)^2: a paraboloid with Hessian H = (1/N) X^T X.
            Gradient descent makes w - w* shrink by 1 - rate * eigenvalue along each eigenvector: it goes straight
            down below 1 / largest eigenvalue, swings below 2 / largest, and diverges above (LeCun et al. 1998,
            Efficient BackProp, section 5.1)
perceptron  w += t x for a point on the wrong side (Rosenblatt 1958): the line after each correction
slices      L(w + a d1 + b d2). A random direction has every filter as long as the filter of w, for a net of ReLUs
            is the same with its filters scaled (Li et al. 2018, arXiv 1712.09913); along a path the two directions
            of its largest spread are taken (their section 7)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError


class Bowl(NamedTuple):
    """The loss of a linear neuron: lowest + (w - best) hessian (w - best) / 2."""

    hessian: np.ndarray  # [I, I]
    best: np.ndarray  # [I]
    lowest: float

    @classmethod
    def of(cls, x: np.ndarray, t: np.ndarray) -> Bowl:
        """Of inputs x [N, I] and targets t [N]. Raises InputError where the inputs do not span the space."""
        hessian = x.T @ x / len(x)
        if np.linalg.matrix_rank(hessian) < len(hessian):
            raise InputError(f"the inputs {list(x.shape)} do not span the space, so the bowl has a flat direction")
        best = np.linalg.solve(hessian, x.T @ t / len(x))
        return cls(hessian, best, float(np.mean((x @ best - t) ** 2) / 2))

    def loss(self, w: np.ndarray) -> np.ndarray:
        """[...] at weights [..., I]."""
        away = w - self.best
        return self.lowest + np.einsum("...i,ij,...j->...", away, self.hessian, away) / 2

    @property
    def limit(self) -> float:
        """The rate above which gradient descent diverges: 2 / largest eigenvalue."""
        return float(2 / np.linalg.eigvalsh(self.hessian)[-1])

    def path(self, start: np.ndarray, rate: float, steps: int) -> np.ndarray:
        """[steps + 1, I]: gradient descent, w -= rate * hessian (w - best)."""
        path = [start]
        for _ in range(steps):
            path.append(path[-1] - rate * self.hessian @ (path[-1] - self.best))
        return np.array(path)


def perceptron(x: np.ndarray, classes: np.ndarray, passes: int) -> np.ndarray:
    """[corrections + 1, 3]: the weights (w1, w2, b) after each correction; the line is w1 x1 + w2 x2 + b = 0.

    x [N, 2], classes [N] 0 and 1. It ends after a pass without a correction.
    """
    inputs = np.concatenate([x, np.ones((len(x), 1))], 1)
    path = [np.zeros(3)]
    for _ in range(passes):
        before = len(path)
        for row, sign in zip(inputs, 2 * classes - 1, strict=True):
            if sign * (path[-1] @ row) <= 0:
                path.append(path[-1] + sign * row)
        if len(path) == before:
            break
    return np.array(path)


def filter_normalized(key: jax.Array, params: PyTree) -> PyTree:
    """A random direction like params: each filter, w[o], as long as that of params; 0 for biases and gains."""
    leaves, tree = jax.tree.flatten(params)

    def direction(key: jax.Array, w: jax.Array) -> jax.Array:
        if w.ndim < 2:
            return jnp.zeros_like(w)
        d = jax.random.normal(key, w.shape, w.dtype)
        size = lambda a: jnp.sqrt(jnp.sum(a * a, range(1, a.ndim), keepdims=True))
        return d * size(w) / size(d)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [direction(k, w) for k, w in zip(keys, leaves, strict=True)])


class PathPlane(NamedTuple):
    """The plane in which a path spreads most, seen from its end."""

    directions: tuple[PyTree, PyTree]  # like params, of length 1
    places: np.ndarray  # [points, 2], the path in the plane
    shares: tuple[float, float]  # of the path's squared distance from its end that each direction holds


def path_plane(path: Sequence[PyTree]) -> PathPlane:
    """Of at least three points of a path, trees like params."""
    flat = [ravel_pytree(params) for params in path]
    away = np.array([np.asarray(vector, np.float64) for vector, _ in flat])
    away -= away[-1]
    _, sizes, directions = np.linalg.svd(away, full_matrices=False)
    back = flat[-1][1]
    shares = sizes**2 / np.sum(sizes**2)
    first, second = (back(jnp.asarray(d, flat[-1][0].dtype)) for d in directions[:2])
    return PathPlane((first, second), away @ directions[:2].T, (float(shares[0]), float(shares[1])))


def loss_slice(
    loss_of: Callable[[PyTree], jax.Array], params: PyTree, directions: Sequence[PyTree], steps: Sequence[np.ndarray]
) -> np.ndarray:
    """The loss at params + sum_i a_i d_i for all a_i in steps[i]: an axis for each direction, in one program."""
    places = np.stack(np.meshgrid(*steps, indexing="ij"), -1)

    def loss_at(place: jax.Array) -> jax.Array:
        step = lambda p, *d: sum(((a * d_i).astype(p.dtype) for a, d_i in zip(place, d, strict=True)), p)
        return loss_of(jax.tree.map(step, params, *directions))

    flat = jnp.asarray(places.reshape(-1, len(steps)), jnp.float32)
    return np.asarray(jax.jit(lambda all_places: jax.lax.map(loss_at, all_places))(flat)).reshape(places.shape[:-1])


def one_weight(params: PyTree, path: str, index: tuple[int, ...]) -> PyTree:
    """The direction of a single weight, like params. Raises InputError where there is none at that path and index."""
    names = {path_name(keys): leaf.shape for keys, leaf in jax.tree_util.tree_leaves_with_path(params)}
    shape = names.get(path)
    if shape is None or len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        known = ", ".join(f"{name} {list(size)}" for name, size in names.items())
        raise InputError(f"there is no weight {path}{list(index)}; the parameters are {known}")
    place = lambda keys, leaf: (
        jnp.zeros_like(leaf).at[index].set(1) if path_name(keys) == path else jnp.zeros_like(leaf)
    )
    return jax.tree_util.tree_map_with_path(place, params)
