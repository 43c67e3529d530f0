"""The flat dict of leaves that every check works on: taken apart, put together, aligned with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError

Leaves = dict[str, jax.Array]


def split(tree: PyTree, what: str) -> tuple[Leaves, Callable[[Leaves], PyTree]]:
    """(the differentiable leaves by path, a function that puts others in their place)."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) or "params" for path, _ in flat]
    taken = [is_float(leaf) for _, leaf in flat]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two leaves of the {what} have the same path '{twice[0]}': rename a key that contains '/'")
    leaves = {name: jnp.asarray(leaf) for name, (_, leaf), t in zip(names, flat, taken, strict=True) if t}
    if not leaves:
        raise InputError(f"nothing to differentiate: no leaf of the {what} is a floating-point array")
    rest = [leaf for _, leaf in flat]

    def rebuild(leaves: Leaves) -> PyTree:
        return structure.unflatten([leaves.get(name, leaf) for name, leaf in zip(names, rest, strict=True)])

    return leaves, rebuild


def aligned(given: PyTree, leaves: Leaves, who: str, like: PyTree) -> dict[str, jax.Array | None]:
    """A hand-written gradient by path. Integer leaves may hold anything; a floating leaf may be None: it is missing."""
    flat = jax.tree_util.tree_flatten_with_path(given, is_leaf=lambda node: node is None)[0]
    found = {path_name(path) or next(iter(leaves)): g for path, g in flat}
    known = {path_name(path) or "params" for path, _ in jax.tree_util.tree_flatten_with_path(like)[0]}
    strangers = sorted(path for path, g in found.items() if path not in known and g is not None and path not in leaves)
    if strangers:
        raise InputError(
            f"{who} returned a leaf '{strangers[0]}' that its parameters do not have "
            f"(they have {', '.join(sorted(known))})"
        )
    absent = sorted(path for path in leaves if path not in found)
    if absent:
        raise InputError(
            f"the tree that {who} returned does not match: it has no '{absent[0]}' (found "
            f"{', '.join(sorted(found)) or 'nothing'}); return None for a leaf that has no gradient"
        )
    return {path: None if found[path] is None else jnp.asarray(found[path]) for path in leaves}


def cotangent(y: PyTree, dtype: Any, seed: int = 5) -> PyTree:
    """A random dy of an output's shape, each entry at least 0.2 from zero so that nothing hides behind it."""

    def draw(i: int, s: Any) -> jax.Array:
        z = np.random.default_rng((seed, i)).normal(size=s.shape)
        return jnp.asarray(z + np.where(z < 0, -0.2, 0.2), dtype)

    leaves, tree = jax.tree.flatten(y)
    return tree.unflatten([draw(i, s) for i, s in enumerate(leaves)])


def is_float(leaf: Any) -> bool:
    """Whether a leaf is one to differentiate in. Complex leaves are refused."""
    dtype = getattr(leaf, "dtype", None)
    if isinstance(leaf, complex) or (dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)):
        raise InputError("a complex leaf cannot be checked: split it into its real and imaginary parts")
    return isinstance(leaf, float) or (dtype is not None and jnp.issubdtype(dtype, jnp.floating))


def batch_size(batch: PyTree) -> int | None:
    """The length that the first axes of all arrays of the batch share; None if they do not."""
    sizes = {
        np.shape(a)[0] if np.ndim(a) else None for a in jax.tree.leaves(batch) if hasattr(a, "shape") and np.ndim(a)
    }
    return sizes.pop() if len(sizes) == 1 else None


def in_dtype(tree: PyTree, dtype: Any) -> PyTree:
    """Every floating leaf in `dtype`, Python numbers included; what is no array stays as it is."""
    found = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if is_float(leaf) else leaf, tree)
    if any(leaf.dtype != dtype for leaf in jax.tree.leaves(found) if is_float(leaf)):
        raise InputError(f"{np.dtype(dtype).name} is not available here, and the check needs it: set jax_enable_x64")
    return found


def counts(size: int | None, data: PyTree, output: PyTree, leaves: Leaves) -> tuple[tuple[str, float], ...]:
    """Named numbers that a missing or extra factor may be."""
    numbers = {}
    for what, arrays in (("data", data), ("output", output)):
        for a in jax.tree.leaves(arrays):
            numbers |= {f"the length {n} of the {what}'s axis {axis}": n for axis, n in enumerate(np.shape(a)[1:], 1)}
    for path, a in leaves.items():
        numbers |= {f"the length {n} of axis {axis} of {path}": n for axis, n in enumerate(a.shape)}
    if size:
        numbers[f"the batch size {size}"] = size
    return tuple((name, float(n)) for name, n in numbers.items() if n > 1)


def dtypes_of(tree: PyTree) -> dict[str, str]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path) or "params": str(getattr(leaf, "dtype", type(leaf).__name__)) for path, leaf in flat}
