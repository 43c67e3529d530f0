"""A function in its own precision: how far a right derivative may be off, measured on autodiff of the reference.

A hand-written derivative may reach MULTIPLE times the larger of autodiff's own error in that precision and 2 ulp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.leaves import Leaves
from jaxbp.check.truth import leaf_errors
from jaxbp.core import PyTree

DRAWS = 4  # points at which autodiff's own error is measured
MULTIPLE = 4


def own_dtypes(dtypes: dict[str, str], leaves: Leaves) -> dict[str, Any]:
    """The dtype of every leaf as its caller has it; float32 for float64 and for Python numbers, as JAX takes them."""
    wide = ("float", "float64", "complex", "complex64", "complex128")  # the parts of a complex leaf are real
    return {path: jnp.dtype("float32" if dtypes[path] in wide else dtypes[path]) for path in leaves}


def rounding(forward: Callable[[Leaves], PyTree], leaves: Leaves, dy: PyTree, dtypes: dict[str, Any]) -> float:
    """The relative error that is allowed to the derivative of <dy, forward> in those dtypes."""
    pullback = lambda leaves: jax.vjp(forward, leaves)[1](dy)[0]
    exact = jax.jit(pullback)
    own = jax.jit(lambda leaves: pullback(cast(leaves, dtypes)))
    error = 0.0
    for draw in range(DRAWS):
        point = near(leaves, draw, dtypes)
        error = max(error, *leaf_errors(*jax.device_get((own(point), exact(point)))).values())
    return MULTIPLE * max(error, *(2 * float(jnp.finfo(dtype).eps) for dtype in dtypes.values()))


def cast(leaves: Leaves, dtypes: dict[str, Any]) -> Leaves:
    """Every leaf in its dtype."""
    return {path: a.astype(dtypes[path]) for path, a in leaves.items()}


def near(leaves: Leaves, draw: int, dtypes: dict[str, Any]) -> Leaves:
    """float64 leaves moved by a per cent or so to what their dtypes can hold; draw 0 stays where it is."""
    noise = np.random.default_rng(draw)
    moved = {path: a * (1 + 0.01 * draw * noise.normal(size=a.shape)) for path, a in leaves.items()}
    return {path: a.astype(jnp.float64) for path, a in cast(moved, dtypes).items()}
