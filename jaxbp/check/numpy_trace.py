"""NumPy code traced by JAX: an array that answers NumPy's functions with JAX's, and that can be written to.

What it cannot follow raises: a branch on a value, float(), np.asarray, writing into an array of NumPy's, a loop of very
many steps. The caller then runs the code on NumPy arrays.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import PyTree

VIEWS = ("T", "reshape", "ravel", "transpose", "swapaxes", "squeeze")  # they share memory with their array
COPIES = (
    *("all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumprod", "cumsum", "dot", "dtype"),
    *("flatten", "max", "mean", "min", "ndim", "prod", "repeat", "round", "shape", "size", "std", "sum", "take", "var"),
)
LONGEST = 2000  # arrays that one call may make: each is an operation to compile
Put = Callable[[jax.Array, jax.Array], jax.Array]  # (the array, what a part of it becomes) -> the array after it


class Traced(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of NumPy code under JAX's tracing.

    view: the array that it is part of, and how the part is read and written there.
    """

    made: ClassVar[list[weakref.ref]] = []  # by the call that is traced

    def __init__(self, value: Any, view: tuple[Traced, Callable, Put] | None = None) -> None:
        self._value, self._view_of = value, view
        Traced.made.append(weakref.ref(self))
        if len(Traced.made) > LONGEST:
            raise TypeError(f"it makes more than {LONGEST} arrays")

    @property
    def value(self) -> Any:
        """What JAX has for it now."""
        if self._view_of is None:
            return self._value
        array, get, _ = self._view_of
        return get(array.value)

    @value.setter
    def value(self, new: Any) -> None:
        old = self.value
        new = jnp.broadcast_to(jnp.asarray(new, old.dtype), old.shape)
        if self._view_of is None:
            self._value = new
        else:
            array, _, put = self._view_of
            array.value = put(array.value, new)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("its numbers are not known while JAX traces it")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        function = getattr(jnp, ufunc.__name__)
        if method == "at":
            target, *rest = inputs
            target.value = function.at(*_values((target, *rest)), inplace=False)
            return None
        function = function if method == "__call__" else getattr(function, method)
        return _written(_wrapped(function(*_values(inputs), **_values(kwargs))), out and out[0])

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        if function.__name__ in VIEWS:
            return getattr(args[0], function.__name__)(*args[1:], **kwargs)
        if function.__name__ in ("copyto", "put", "place", "putmask", "fill_diagonal"):  # they write into an argument
            raise TypeError(f"np.{function.__name__} is not followed")
        out = kwargs.pop("out", None)
        room = jnp.linalg if "linalg" in function.__module__ else jnp
        return _written(_wrapped(getattr(room, function.__name__)(*_values(args), **_values(kwargs))), out)

    def __getattr__(self, name: str) -> Any:
        if name in VIEWS:
            view = lambda *args, **kwargs: self._view(lambda a: getattr(a, name)(*args, **kwargs))
            return self._view(lambda a: a.T) if name == "T" else view
        if name not in COPIES:
            raise AttributeError(name)
        attribute = getattr(self.value, name)
        if not callable(attribute):
            return _wrapped(attribute)
        return lambda *args, **kwargs: _written(
            _wrapped(attribute(*_values(args), **_values({k: v for k, v in kwargs.items() if k != "out"}))),
            kwargs.get("out"),
        )

    def _view(self, get: Callable[[jax.Array], jax.Array]) -> Traced:
        """A rearrangement of all entries: its transpose puts them back."""
        return Traced(None, (self, get, lambda array, new: jax.linear_transpose(get, array)(new)[0]))

    def __getitem__(self, index: Any) -> Traced:
        index = _values(index)
        parts = index if isinstance(index, tuple) else (index,)
        basic = all(part is None or part is ... or isinstance(part, int | np.integer | slice) for part in parts)
        if basic and self.value[index].ndim:
            return Traced(None, (self, lambda array: array[index], lambda array, new: array.at[index].set(new)))
        return Traced(self.value[index])

    def __setitem__(self, index: Any, new: Any) -> None:
        index, new = _values((index, new))
        self.value = self.value.at[index].set(new)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Traced]:
        return (self[i] for i in range(len(self)))


def _take_operators() -> None:
    """NumPy's operators, as if they stood in this file: the line of an operation is then the user's."""
    for name, method in vars(np.lib.mixins.NDArrayOperatorsMixin).items():
        if isinstance(method, FunctionType):
            code = method.__code__.replace(co_filename=__file__)
            setattr(Traced, name, FunctionType(code, method.__globals__, name, method.__defaults__, method.__closure__))


_take_operators()


class Namespace:
    """NumPy to the code that is traced: a new array of floats is one that it can write traced numbers into."""

    NEW = ("zeros", "ones", "empty", "full")

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if name == "array":
            return _array
        if name not in self.NEW:
            return attribute

        def new(*args: Any, **kwargs: Any) -> Any:
            array = attribute(*args, **kwargs)
            return Traced(jnp.asarray(array)) if array.dtype.kind == "f" else array

        return new


def _array(value: Any, *args: Any, **kwargs: Any) -> Any:
    """np.array of a traced array, which is a copy, and of a list that holds some."""
    if not any(isinstance(leaf, Traced) for leaf in jax.tree.leaves(value)):
        return np.array(value, *args, **kwargs)
    return Traced(jnp.array(_values(value), kwargs.get("dtype", args[0] if args else None)))


def _beside(value: Any, seen: dict[int, Any]) -> Any:
    """A function or class, and those that it calls by name, with `Namespace` in the place of NumPy."""
    if value is np:
        return Namespace()
    theirs = isinstance(value, FunctionType) or (type(value) is type and value.__module__ != "builtins")
    if not theirs or str(value.__module__).partition(".")[0] in ("jax", "numpy", "scipy"):
        return value
    if id(value) not in seen:  # it is kept there before what it refers to, which may be itself
        _copy_class(value, seen) if isinstance(value, type) else _copy_function(value, seen)
    return seen[id(value)]


def _copy_function(function: FunctionType, seen: dict[int, Any]) -> None:
    names: dict[str, Any] = {}
    cells = tuple(CellType() for _ in function.__closure__ or ())
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    seen[id(function)] = copy
    used = set(_names(function.__code__))
    names |= {k: _beside(v, seen) if k in used else v for k, v in function.__globals__.items()}
    for cell, theirs in zip(cells, function.__closure__ or (), strict=True):
        cell.cell_contents = _beside(theirs.cell_contents, seen)


def _copy_class(cls: type, seen: dict[int, Any]) -> None:
    """A class of the same name with its functions copied; what wraps a function, as a property does, stays."""
    bases = tuple(_beside(base, seen) for base in cls.__bases__)
    seen[id(cls)] = copy = type(cls.__name__, bases, {})
    for name, value in vars(cls).items():
        if name not in ("__dict__", "__weakref__"):
            setattr(copy, name, _beside(value, seen) if isinstance(value, FunctionType) else value)


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function looks up, and those of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def traceable(function: Callable) -> Callable:
    """NumPy code as a function that JAX can trace, where it can follow it."""
    function = _beside(function, {})

    def call(*arguments: PyTree, **keywords: PyTree) -> PyTree:
        Traced.made.clear()
        arguments, keywords = jax.tree.map(_argument, (arguments, keywords))
        return jax.tree.map(lambda a: a.value if isinstance(a, Traced) else a, function(*arguments, **keywords))

    call.__name__ = getattr(function, "__name__", "function")
    return call


def kept() -> bool:
    """Whether the code that was traced last keeps an array of it: in an attribute, a list, a global."""
    return any(array() is not None for array in Traced.made)


def _argument(leaf: Any) -> Any:
    """An array of floats as a traced one, a number too; NumPy's integers as they are."""
    if isinstance(leaf, jax.Array):
        return Traced(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else np.array(leaf)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _wrapped(result: Any) -> Any:
    if isinstance(result, jax.Array):
        return Traced(result)
    return type(result)(map(_wrapped, result)) if type(result) in (tuple, list) else result


def _values(tree: Any) -> Any:
    """Every traced array as JAX has it, in tuples, lists and dicts."""
    if isinstance(tree, Traced):
        return tree.value
    if type(tree) in (tuple, list):
        return type(tree)(map(_values, tree))
    return {key: _values(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _written(result: Any, out: Any) -> Any:
    """The result, or `out` with the result in it; a number is not written to, another takes its place."""
    if out is None:
        return result
    if not isinstance(out, Traced):
        raise TypeError("an array of NumPy's cannot hold what JAX traces")
    if not out.ndim:
        return result
    out.value = result.value
    return out
