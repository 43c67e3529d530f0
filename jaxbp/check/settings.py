"""The settings that a check runs under, and that nothing of them is left behind in the caller's process.

JAX makes a constant of a NumPy array that a function holds, as wide as jax_enable_x64 allows, and keeps it under the
array alone for as long as a traced program needs it. An int64 array met in a check would so stay int64 where the caller
has float32; and a float64 array that the caller has traced in float32 would be float32 in the check. From the first
check on JAX keeps one constant for each array and each of the two settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax._src import dtypes, literals  # the only door to what JAX makes of a NumPy array
from jaxlib import weakref_lru_cache


@contextmanager
def double_precision() -> Iterator[None]:
    """float64, matrix products at full precision, and JAX's own rules of promotion, whatever the caller has set."""
    dtypes.register_canonicalize_value_handler(np.ndarray, _constant)
    with (
        jax.enable_x64(True),
        jax.default_matmul_precision("highest"),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def _constant(array: np.ndarray) -> literals.TypedNdArray:
    """What JAX takes for a NumPy array under the settings of the moment."""
    return _WIDE(array) if jax.config.read("jax_enable_x64") else _NARROW(array)


def _typed(array: np.ndarray) -> literals.TypedNdArray:
    return literals.TypedNdArray(np.asarray(array, dtypes.canonicalize_dtype(array.dtype)))


_WIDE, _NARROW = (weakref_lru_cache.weak_key_weak_value_cache(_typed) for _ in range(2))
