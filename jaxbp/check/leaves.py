"""The flat dict of leaves that every check works on: split off a tree, put back into it, aligned with a gradient.

A complex leaf z = x + iy is two real ones, `z.real` and `z.imag`. JAX's gradient of it is dL/dx - i dL/dy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError

Leaves = dict[str, jax.Array]  # the floating leaves of a tree, by path
Gradient = dict[str, jax.Array | None]  # None: the leaf is missing
Arrays = dict[str, np.ndarray]
Measured = Mapping[str, np.ndarray | None]  # a gradient on the host; None where there is nothing
COMPLEX: dict[Any, Any] = {np.float64: np.complex128, np.float32: np.complex64}
Counts = tuple[tuple[str, float], ...]  # named numbers that a wrong factor may be


def split(tree: PyTree, what: str) -> tuple[Leaves, Callable[[Leaves], PyTree]]:
    """(the floating leaves by path, a function that puts others in their place). what: the tree's name in messages."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    nodes = [(path_name(path) or "params", leaf) for path, leaf in flat]
    parts = [part for path, leaf in nodes if is_inexact(leaf) for part in by_part(path, jnp.asarray(leaf)).items()]
    paths = [path for path, _ in parts] + [path for path, leaf in nodes if not is_inexact(leaf)]
    if repeated := sorted({path for path in paths if paths.count(path) > 1}):
        raise InputError(f"two leaves of the {what} have the same path '{repeated[0]}': rename a key that contains '/'")
    if not parts:
        raise InputError(f"nothing to differentiate: no leaf of the {what} is a floating-point array")

    def rebuild(leaves: Leaves) -> PyTree:
        whole = lambda path: jax.lax.complex(leaves[f"{path}.real"], leaves[f"{path}.imag"])
        others = lambda path, leaf: whole(path) if is_complex(leaf) else leaves.get(path, leaf)
        return jax.tree.unflatten(structure, [others(path, leaf) for path, leaf in nodes])

    return dict(parts), rebuild


def by_part(path: str, leaf: jax.Array) -> Leaves:
    """A leaf by its path; a complex one by the paths of its parts."""
    return {f"{path}.real": jnp.real(leaf), f"{path}.imag": jnp.imag(leaf)} if is_complex(leaf) else {path: leaf}


def aligned(gradient: PyTree, leaves: Leaves, who: str, like: PyTree) -> Gradient:
    """A hand-written gradient by path. A floating leaf may be None: it is missing. Integer leaves may hold anything."""
    known = {path_name(path) or "params": leaf for path, leaf in jax.tree_util.tree_flatten_with_path(like)[0]}
    floating = [path for path, leaf in known.items() if is_inexact(leaf)]
    flat = jax.tree_util.tree_flatten_with_path(gradient, is_leaf=lambda node: node is None)[0]
    returned = {path_name(path) or floating[0]: g for path, g in flat}
    if strange := sorted(path for path, g in returned.items() if path not in known and g is not None):
        raise InputError(
            f"{who} returned a leaf '{strange[0]}' that its parameters do not have "
            f"(they have {', '.join(sorted(known))})"
        )
    if absent := sorted(path for path in floating if path not in returned):
        raise InputError(
            f"the tree that {who} returned does not match: it has no '{absent[0]}' (found "
            f"{', '.join(sorted(returned)) or 'nothing'}); return None for a leaf that has no gradient"
        )
    parts: Gradient = {}
    for path in floating:
        g = None if returned[path] is None else jnp.asarray(returned[path])
        if is_complex(known[path]):
            parts[f"{path}.real"] = None if g is None else jnp.real(g)
            parts[f"{path}.imag"] = None if g is None else -jnp.imag(g)
        elif is_complex(g):
            raise InputError(f"{who} returned complex numbers for the real leaf '{path}': return their real part")
        else:
            parts[path] = g
    return parts


def cotangent(y: PyTree, dtype: Any, seed: int = 5) -> PyTree:
    """A random dy of an output's shape, each entry at least 0.2 from zero so that nothing hides behind it."""

    def draw(i: int, s: Any) -> jax.Array:
        if is_complex(s):
            raise InputError("a complex output of a layer cannot be checked: return its real and its imaginary part")
        z = np.random.default_rng((seed, i)).normal(size=s.shape)
        return jnp.asarray(z + np.where(z < 0, -0.2, 0.2), dtype)

    leaves, structure = jax.tree.flatten(y)
    return jax.tree.unflatten(structure, [draw(i, s) for i, s in enumerate(leaves)])


def is_float(leaf: Any) -> bool:
    """Whether it is a real floating number or array."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float) or (dtype is not None and jnp.issubdtype(dtype, jnp.floating))


def is_complex(leaf: Any) -> bool:
    """Whether it is a complex number or array."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, complex) or (dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating))


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf can be differentiated."""
    return is_float(leaf) or is_complex(leaf)


def batch_size(batch: PyTree) -> int | None:
    """The length of the first axis, if all arrays of the batch share it."""
    sizes = {np.shape(a)[0] for a in jax.tree.leaves(batch) if hasattr(a, "shape") and np.ndim(a)}
    return sizes.pop() if len(sizes) == 1 else None


def in_dtype(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with every floating leaf in `dtype`, Python numbers included, and with NumPy arrays copied.

    Raises InputError where JAX lacks the dtype.
    """
    cast = jax.tree.map(lambda leaf: _copied(leaf, dtype), tree)
    if any(leaf.dtype != dtype for leaf in jax.tree.leaves(cast) if is_float(leaf)):
        raise InputError(f"{np.dtype(dtype).name} is not available here, and the check needs it: set jax_enable_x64")
    return cast


def _copied(leaf: Any, dtype: Any) -> Any:
    """A floating leaf in `dtype`. What is the caller's, who may write into it, is copied."""
    leaf = leaf.copy() if isinstance(leaf, np.ndarray) else leaf
    if is_complex(leaf):
        if dtype not in COMPLEX:
            raise InputError(f"there are no complex numbers of {np.dtype(dtype).name}")
        dtype = COMPLEX[dtype]
    elif not is_float(leaf):
        return leaf
    here = on_host(leaf) if isinstance(leaf, jax.Array) else leaf
    return jnp.asarray(here.astype(dtype) if isinstance(here, np.ndarray) else here, dtype)


def on_host(leaf: jax.Array) -> jax.Array | np.ndarray:
    """A leaf as a NumPy array, whose arithmetic JAX need not compile; as it is where its place matters."""
    return leaf if isinstance(leaf, jax.core.Tracer) or leaf.committed else np.asarray(leaf)


def counts(size: int | None, data: PyTree, output: PyTree, leaves: Leaves) -> Counts:
    """The lengths that a missing or extra factor may be: the batch size, and those of axes after the first."""
    numbers: dict[str, int] = {}
    for what, arrays in (("data", data), ("output", output)):
        for a in jax.tree.leaves(arrays):
            numbers |= {f"the length {n} of the {what}'s axis {axis}": n for axis, n in enumerate(np.shape(a)[1:], 1)}
    for path, leaf in leaves.items():
        numbers |= {f"the length {n} of axis {axis} of {path}": n for axis, n in enumerate(leaf.shape)}
    if size:
        numbers[f"the batch size {size}"] = size
    return tuple((name, float(n)) for name, n in numbers.items() if n > 1)


def dtypes_of(tree: PyTree) -> dict[str, str]:
    """The dtype of every leaf by path, as a table shows it: 'float' for a Python number."""
    flat = [(path_name(path) or "params", leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    parts = lambda path, leaf: (f"{path}.real", f"{path}.imag") if is_complex(leaf) else (path,)
    dtype = lambda leaf: str(getattr(leaf, "dtype", type(leaf).__name__))
    return {part: dtype(leaf) for path, leaf in flat for part in parts(path, leaf)}
