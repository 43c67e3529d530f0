"""How the functions under check are called: traced by JAX, or on NumPy arrays of their own.

A function that JAX can trace is traced twice: new noise or a counter in it makes another program of it. One that it
cannot trace is NumPy code. It gets NumPy arrays, new ones at every call, so that it may write into them.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxbp.check import numpy_trace
from jaxbp.check.diagnosis.jaxprs import place
from jaxbp.check.leaves import Leaves
from jaxbp.check.report import Finding
from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError

OnLeaves = Callable[[Leaves], PyTree]
SAID = 3  # places where a function narrows its numbers, named in a line


@dataclass(frozen=True)
class Call:
    """A function in the form that the check calls, and what is said of it."""

    function: Callable
    traceable: bool
    findings: tuple[Finding, ...] = ()


def traced(function: OnLeaves, leaves: Leaves, who: str, hint: str = "") -> Call:
    """A function that JAX must be able to trace. Raises InputError where it cannot, or where two traces differ.

    hint: what helps where float32 and float64 do not mix.
    """
    try:
        return _traced(function, leaves, who)
    except jax.errors.JAXTypeError as error:
        raise InputError(f"{who} cannot be traced by JAX: {first_line(error)}") from None
    except Exception as error:
        mixed = "float32" in first_line(error) and "float64" in first_line(error)
        raise InputError(f"{_refusal(who, error)}{hint if mixed else ''}") from None


def suited(use: Callable[[Callable], OnLeaves], function: Callable, arguments: dict, leaves: Leaves) -> Call:
    """The function as JAX traces it; else on NumPy arrays; else untraced, on JAX's.

    use(function) takes the leaves. arguments: the caller's own, by name. Raises InputError for a function that
    fails in all three ways.
    """
    who = name_of(function)
    on_numpy = OnNumpy(function, arguments)
    try:
        call = _traced(use(function), leaves, who)
        return Call(function, True, (*call.findings, *_written(use, on_numpy, leaves)))
    except InputError:
        raise
    except Exception as error:
        traced_error = error
    try:
        use(on_numpy.watched)(leaves)
        return _followed(use, on_numpy, leaves) or Call(on_numpy, False, on_numpy.findings)
    except InputError:
        raise
    except Exception as error:
        numpy_error = error
    if not isinstance(traced_error, jax.errors.JAXTypeError):
        raise _refusal(who, numpy_error if "immutable" in str(traced_error) else traced_error) from None
    try:
        use(function)(leaves)
        return Call(function, False)
    except jax.errors.JAXTypeError:
        raise _refusal(who, numpy_error) from None
    except Exception as error:
        raise _refusal(who, error) from None


def _followed(use: Callable[[Callable], OnLeaves], on_numpy: OnNumpy, leaves: Leaves) -> Call | None:
    """NumPy code as JAX can follow it, if that gives the numbers of NumPy, here and at another point."""
    noise = np.random.default_rng(0)
    moved = {path: jnp.asarray(np.asarray(a) * (1 + 0.1 * noise.normal(size=a.shape))) for path, a in leaves.items()}
    try:
        function = numpy_trace.traceable(on_numpy.function)
        call = _traced(use(function), leaves, on_numpy.__name__)
        if numpy_trace.kept():
            return None
        compiled = jax.jit(use(function), compiler_options={"xla_backend_optimization_level": 0})  # it runs twice
        same = all(_close(compiled(point), use(on_numpy)(point)) for point in (leaves, moved))
    except Exception:  # it asks for a number
        return None
    return Call(function, True, (*call.findings, *on_numpy.findings)) if same else None


def _close(a: PyTree, b: PyTree) -> bool:
    """Whether two results are the same but for rounding."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    gap = lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0)
    return all(np.shape(a) == np.shape(b) and gap(a, b) <= 1e-10 * np.max(np.abs(b), initial=1e-30) for a, b in pairs)


def _traced(function: OnLeaves, leaves: Leaves, who: str) -> Call:
    """The function if JAX can trace it, and if it is the same at a second tracing."""
    again = lambda: jax.make_jaxpr(lambda leaves: function(leaves))(leaves)  # another function: no trace is reused
    jaxpr = again()
    if not _equal(jaxpr, again()):
        raise InputError(_unsteady(who, "two tracings by JAX gave different operations or constants"))
    return Call(function, True, tuple(_narrowed(jaxpr, who)))


def _equal(a: ClosedJaxpr, b: ClosedJaxpr) -> bool:
    """Whether two traces are the same operations on the same constants."""
    text = lambda closed: re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))
    bits = lambda c: jax.random.key_data(c) if jnp.issubdtype(c.dtype, jax.dtypes.prng_key) else c
    same = lambda c, d: c is d or np.array_equal(bits(c), bits(d), equal_nan=True)
    return len(a.consts) == len(b.consts) and text(a) == text(b) and all(map(same, a.consts, b.consts))


def _unsteady(who: str, what: str) -> str:
    return f"{who} does not repeat itself: {what}; take random numbers from a key or a seed that is an argument"


def repeated(results: list[PyTree], who: str, eps: float = float(np.finfo(np.float64).eps)) -> Finding | None:
    """Whether one call gave the same bits every time; a finding where it did within rounding only.

    eps: of the precision that the function computes in. Raises InputError for larger differences.
    """
    first, *others = ([np.asarray(a, np.float64) for a in jax.tree.leaves(result)] for result in results)
    worst = (0.0, 0.0, 0.0)  # relative difference, and the two values
    for a, b in ((a, b) for other in others for a, b in zip(first, other, strict=True)):
        if a.shape != b.shape:
            raise InputError(_unsteady(who, f"the same call gave the shapes {a.shape} and {b.shape}"))
        if not np.array_equal(a, b, equal_nan=True):
            with np.errstate(invalid="ignore"):
                gap = np.nan_to_num(np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b)), nan=np.inf)
            i = np.unravel_index(np.argmax(gap), gap.shape)
            scale = np.max(np.abs(a), where=np.isfinite(a), initial=0)
            worst = max(worst, (float(gap[i] / scale) if scale else np.inf, float(a[i]), float(b[i])))
    if worst[0] > 1e5 * eps:
        raise InputError(_unsteady(who, f"the same call gave {worst[1]:.9g} and {worst[2]:.9g}"))
    text = f"{who} repeats itself within rounding, to {worst[0]:.1e}, and not to the bit"
    return Finding("the same call twice", None, text) if worst[0] else None


# NumPy code.


class OnNumpy:
    """The function on NumPy arrays, new ones at every call. `changed`: the caller's arrays that it would write to."""

    def __init__(self, function: Callable, arguments: dict[str, PyTree]) -> None:
        self.function = function
        self.__name__ = name_of(function)
        self.writable = [path for path, leaf in _flat(arguments).items() if isinstance(leaf, np.ndarray)]
        self.changed: dict[str, None] = {}

    def __call__(self, *arguments: PyTree, **keywords: PyTree) -> PyTree:
        return jax.tree.map(own, self.function(*jax.tree.map(own, arguments), **jax.tree.map(own, keywords)))

    def watched(self, *arguments: PyTree, **keywords: PyTree) -> PyTree:
        """The same, with what it changes noted."""
        passed, by_name = jax.tree.map(own, (arguments, keywords))
        before = _flat(named(self.function, jax.tree.map(own, arguments)) | jax.tree.map(own, keywords))
        result = self.function(*passed, **by_name)
        after = _flat(named(self.function, passed) | by_name)
        same = lambda path: path in after and np.array_equal(after[path], before[path], equal_nan=True)
        self.changed |= dict.fromkeys(path for path in self.writable if not same(path))
        return jax.tree.map(own, result)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A law broken by a function that has changed its arguments."""
        if not self.changed:
            return ()
        text = f"{self.__name__} changes {', '.join(self.changed)} in place: the next call sees other numbers"
        return (Finding("inputs unchanged", False, text),)


def _written(use: Callable[[Callable], OnLeaves], on_numpy: OnNumpy, leaves: Leaves) -> tuple[Finding, ...]:
    """What a function that JAX can trace writes into NumPy arrays: `x -= m` is a new x to JAX, the old one to NumPy."""
    code = getattr(inspect.unwrap(on_numpy.function), "__code__", None)
    writes = lambda i: i.opname == "STORE_SUBSCR" or i.argrepr in IN_PLACE
    if code is None or not on_numpy.writable or not any(map(writes, dis.get_instructions(code))):
        return ()
    try:
        use(on_numpy.watched)(leaves)
    except Exception:  # JAX code, which NumPy arrays do not suit
        return ()
    return on_numpy.findings


IN_PLACE = {f"{sign}=" for sign in ("+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "^", "<<", ">>")}


def own(leaf: Any) -> Any:
    """A NumPy array of its own for an array, a NumPy number for one without axes; anything else as it is."""
    if not isinstance(leaf, np.ndarray | jax.Array) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    array = np.array(leaf)
    return array if array.ndim else array[()]


def _flat(tree: PyTree) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


# A narrower type inside the trace.


def _narrowed(closed: ClosedJaxpr, who: str) -> Iterator[Finding]:
    """One line for the operations that take float64 and give a narrower type."""
    places = dict.fromkeys(f"{dtype} at {place(eqn)}" for eqn, dtype in _narrowings(closed.jaxpr))
    if places:
        more = f" and {len(places) - SAID} more" if len(places) > SAID else ""
        text = f"{who} goes from float64 to {', '.join(list(places)[:SAID])}{more}: its rounding shows in the errors"
        yield Finding("narrower type", None, f"{text}; accuracy=... is the error that counts as right")


def _narrowings(jaxpr: Any) -> Iterator[tuple[Any, str]]:
    """(operation, dtype) for every operation with a float64 input and an output of a narrower float, calls included."""
    wide = lambda v: getattr(v.aval, "dtype", None) == np.float64
    for eqn in operations(jaxpr):
        dtypes = [getattr(v.aval, "dtype", None) for v in eqn.outvars]
        narrow = [d for d in dtypes if d is not None and jnp.issubdtype(d, jnp.floating) and d.itemsize < 8]
        if narrow and not held(eqn) and any(map(wide, eqn.invars)):
            yield eqn, narrow[0].name


def operations(jaxpr: Any) -> Iterator[Any]:
    """Every operation of a jaxpr, those of calls, loops and branches included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in held(eqn):
            yield from operations(inner)


def held(eqn: Any) -> list[Any]:
    """The jaxprs that a call, a loop or a branch holds."""
    holds = lambda node: hasattr(node, "eqns") or hasattr(node, "jaxpr")
    nodes = jax.tree.leaves(list(eqn.params.values()), is_leaf=holds)
    return [getattr(node, "jaxpr", node) for node in nodes if holds(node)]


# How messages speak of a function.


def name_of(function: Callable) -> str:
    """How messages call a function."""
    function = function.func if isinstance(function, partial) else function
    return getattr(function, "__name__", None) or type(function).__name__


def named(function: Callable, arguments: tuple) -> dict[str, PyTree]:
    """The arguments by the names that the function gives them."""
    try:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    except (TypeError, ValueError):
        names = []
    names = names if len(names) >= len(arguments) else [f"argument{i}" for i in range(len(arguments))]
    return dict(zip(names, arguments, strict=False))


def _refusal(who: str, error: Exception) -> InputError:
    """What the user's own code raised, in one line."""
    if isinstance(error, InputError):
        return InputError(str(error))
    return InputError(f"{who} raised {type(error).__name__}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or ["(no message)"])[0]
