"""JAX's primitive operations in NumPy, on single arrays or on many at once with a row axis before the others."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

Primitive = Callable[[Any, list, list], Any]  # (operation, arrays, which of them have rows) -> the result


def _elementwise(function: Callable) -> Primitive:
    return lambda eqn, arrays, rowwise: function(*_aligned(arrays, rowwise))


def _aligned(arrays: list, rowwise: list) -> list:
    """Arrays with rows get the axes that a scalar among matrices lacks."""
    ndim = max(np.ndim(a) - own for a, own in zip(arrays, rowwise, strict=True))
    fits = lambda a, own: a.reshape(a.shape[0], *[1] * ndim) if own and a.ndim - 1 < ndim else a
    return [fits(a, own) for a, own in zip(arrays, rowwise, strict=True)]


def _select(eqn: Any, arrays: list, rowwise: list) -> Any:
    which, *cases = _aligned(arrays, rowwise)
    if len(cases) == 2 and which.dtype == bool:
        return np.where(which, cases[1], cases[0])
    return None


def _reduction(function: Callable) -> Primitive:
    return lambda eqn, arrays, rowwise: function(arrays[0], axis=tuple(a + rowwise[0] for a in eqn.params["axes"]))


def _broadcast(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    a, own = arrays[0], rowwise[0]
    shape = [1] * len(eqn.params["shape"])
    for axis, n in zip(eqn.params["broadcast_dimensions"], a.shape[own:], strict=True):
        shape[axis] = n
    lead = a.shape[:own]
    return np.broadcast_to(a.reshape((*lead, *shape)), (*lead, *eqn.params["shape"]))


def _reshaped(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    """Reshape, squeeze and expand_dims: the shape of the output says it all."""
    return arrays[0].reshape((*arrays[0].shape[: rowwise[0]], *eqn.outvars[0].aval.shape))


def _transpose(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    own = rowwise[0]
    return arrays[0].transpose(*range(own), *(axis + own for axis in eqn.params["permutation"]))


def _slice(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    p = eqn.params
    strides = p["strides"] or [1] * len(p["start_indices"])
    cuts = [slice(*cut) for cut in zip(p["start_indices"], p["limit_indices"], strides, strict=True)]
    return arrays[0][(*[slice(None)] * rowwise[0], *cuts)]


def _pad(eqn: Any, arrays: list, rowwise: list) -> Any:
    config = eqn.params["padding_config"]
    if rowwise[1] or any(low < 0 or high < 0 for low, high, _ in config):
        return None
    a, value = arrays
    padded = np.full((*a.shape[: rowwise[0]], *eqn.outvars[0].aval.shape), value, a.dtype)
    inner = [
        slice(low, low + (n - 1) * (gap + 1) + 1 if n else low, gap + 1)
        for (low, _, gap), n in zip(config, a.shape[rowwise[0] :], strict=True)
    ]
    padded[(*[slice(None)] * rowwise[0], *inner)] = a
    return padded


def _concatenate(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    own = any(rowwise)
    rows = next((len(a) for a, o in zip(arrays, rowwise, strict=True) if o), 0)
    parts = [np.broadcast_to(a, (rows, *a.shape)) if own and not o else a for a, o in zip(arrays, rowwise, strict=True)]
    return np.concatenate(parts, eqn.params["dimension"] + own)


def _product(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    """Both as stacks of matrices, with the shared axes first."""
    sums, shared = eqn.params["dimension_numbers"]
    matrices, free = [], []
    for side, (a, own) in enumerate(zip(arrays, rowwise, strict=True)):
        rest = [axis for axis in range(a.ndim - own) if axis not in (*sums[side], *shared[side])]
        order = (*shared[side], *rest, *sums[side]) if side == 0 else (*shared[side], *sums[side], *rest)
        turned = a.transpose(*range(own), *(axis + own for axis in order))
        size = lambda axes, a=a, own=own: [a.shape[axis + own] for axis in axes]
        shape = (prod(size(rest)), prod(size(sums[side])))
        matrices.append(turned.reshape((*a.shape[:own], *size(shared[side]), *(shape if side == 0 else shape[::-1]))))
        free += size(rest)
    result = np.matmul(*matrices)
    stack = [arrays[0].shape[axis + rowwise[0]] for axis in shared[0]]
    rows = result.shape[: any(rowwise)]
    return result.reshape((*rows, *stack, *free))


def _converted(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    dtype = np.dtype(eqn.params["new_dtype"])
    array = np.asarray(arrays[0])
    return (array.real if np.iscomplexobj(array) and dtype.kind != "c" else array).astype(dtype)


def _iota(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    p = eqn.params
    column = np.arange(p["shape"][p["dimension"]]).reshape(-1, *[1] * (len(p["shape"]) - p["dimension"] - 1))
    return np.broadcast_to(column, p["shape"]).astype(p["dtype"])


def _power(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    y = eqn.params["y"]
    return arrays[0] ** y if y >= 0 else 1 / arrays[0] ** -y


def _reversed(eqn: Any, arrays: list, rowwise: list) -> np.ndarray:
    return np.flip(arrays[0], tuple(axis + rowwise[0] for axis in eqn.params["dimensions"]))


def _divide(a: np.ndarray, b: np.ndarray) -> Any:
    return a / b if np.issubdtype(a.dtype, np.floating) else None


FUNCTIONS: dict[str, Callable] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "max": np.maximum,
    "min": np.minimum,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "atan": np.arctan,
    "sqrt": np.sqrt,
    "square": np.square,
    "cbrt": np.cbrt,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "eq": np.equal,
    "ne": np.not_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.invert,
    "stop_gradient": lambda x: x,
    "copy": lambda x: x,
    "copy_p": lambda x: x,
    "is_finite": np.isfinite,
    "floor": np.floor,
    "ceil": np.ceil,
}
PRIMITIVES: dict[str, Primitive] = {
    **{name: _elementwise(function) for name, function in FUNCTIONS.items()},
    "select_n": _select,
    "reduce_sum": _reduction(np.sum),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_prod": _reduction(np.prod),
    "reduce_and": _reduction(np.all),
    "reduce_or": _reduction(np.any),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": _transpose,
    "slice": _slice,
    "pad": _pad,
    "concatenate": _concatenate,
    "dot_general": _product,
    "convert_element_type": _converted,
    "iota": _iota,
    "integer_pow": _power,
    "rev": _reversed,
}
