"""Where a function is defined: differences stay inside, one-sided at the bounds.

A point outside counts as one where the function is not finite, so that only the side that is inside is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.leaves import Leaves
from jaxbp.errors import InputError, unknown

Domain = Mapping[str, tuple[float | None, float | None]]  # an argument -> its lowest and highest value; None: any
Bounds = dict[str, tuple[float, float]]  # the same for every leaf that has bounds


def bounds(domain: Domain | None, leaves: Leaves) -> Bounds:
    """The bounds of every leaf of an argument. Raises InputError for a point outside, and for a name of no leaf."""
    resolved: Bounds = {}
    for name, limits in (domain or {}).items():
        low, high = _limits(name, limits)
        paths = [path for path in leaves if path == name or path.startswith(f"{name}/")]
        if not paths:
            raise unknown("argument in domain=", name, leaves)
        resolved |= dict.fromkeys(paths, (low, high))
    for path, (low, high) in resolved.items():
        if not inside({path: (low, high)}, leaves):
            values = np.asarray(leaves[path])
            raise InputError(
                f"{path} has {values.min():.6g} to {values.max():.6g}, outside its domain {low:g} to {high:g}"
            )
    return resolved


def _limits(name: str, limits: Any) -> tuple[float, float]:
    try:
        low, high = (default if limit is None else float(limit) for limit, default in zip(limits, ENDS, strict=True))
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not low < high:
        raise InputError(
            f"domain['{name}'] must be (lowest, highest) with None for any, as in (0, None), got {limits!r}"
        )
    return low, high


ENDS = (-np.inf, np.inf)


def inside(bounds: Bounds, leaves: Leaves) -> bool:
    """Whether a point is in the domain."""
    return all(np.all((leaves[path] >= low) & (leaves[path] <= high)) for path, (low, high) in bounds.items())


def mirrored(bounds: Bounds, leaves: Leaves) -> Leaves:
    """The point with what is outside the domain mirrored at the bound."""

    def mirror(a: jax.Array, low: float, high: float) -> jax.Array:
        a = jnp.where(a < low, 2 * low - a, a)
        return jnp.where(a > high, 2 * high - a, a).clip(low, high)

    return leaves | {path: mirror(leaves[path], *limits) for path, limits in bounds.items()}
