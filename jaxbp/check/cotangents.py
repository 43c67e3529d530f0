"""What a reverse rule owes to every cotangent: zeros, one output at a time, zeros that JAX does not even form, dtypes.

A rule that adds a constant, divides by dy, or skips work where a cotangent is absent is right for the dense dy of the
check, and wrong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.calls import first_line
from jaxbp.check.leaves import Gradient, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Finding
from jaxbp.check.truth import largest_entry, leaf_error
from jaxbp.core import PyTree, path_name
from jaxbp.errors import InputError


def cotangent_laws(problem: Problem, run: Program, hand: Measured, accuracy: float) -> Iterator[Finding]:
    """What is asked where the derivative takes a cotangent. hand: the leaves that are right for the problem's dy."""
    if not takes_cotangent(problem) or not hand:
        return
    yield _zero(problem, run, hand)
    outputs = _outputs(problem.dy)
    alone = {name: run(dy=_only(problem.dy, i)).hand for i, name in enumerate(outputs)} if len(outputs) > 1 else {}
    if alone:
        total = {path: sum(np.asarray(part[path]) for part in alone.values()) for path in hand}
        yield _equal("each output alone", total, hand, accuracy, "one output at a time and for all at once")
    if problem.decorated and "symbolic_zeros" in problem.rules:
        yield from _symbolic(problem.decorated, problem, hand, alone, accuracy)


def takes_cotangent(problem: Problem) -> bool:
    """Whether the hand-written part is a function of dy: that of a scalar's gradient is not."""
    return problem.decorated is not None or (problem.layer is not None and problem.delta is None)


def _zero(problem: Problem, run: Program, hand: Measured) -> Finding:
    """A zero cotangent gives exactly zero, wherever autodiff's does."""
    zero = run(dy=jax.tree.map(jnp.zeros_like, problem.dy))
    gradients = {path: np.asarray(zero.hand[path]) for path in hand}
    strange = {path: g[(g != 0) & (zero.truth.get(path, 0) == 0)] for path, g in gradients.items()}
    wrong = [f"{path} has {entries[0]:.3g}" for path, entries in strange.items() if entries.size]
    return Finding("zero cotangent", not wrong, "; ".join(["a zero dy must give exactly zero", *wrong]))


def _outputs(dy: PyTree) -> list[str]:
    return [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(dy)[0]]


def _only(dy: PyTree, i: int) -> PyTree:
    """The cotangent with one output's alone, the others' zero."""
    flat, structure = jax.tree.flatten(dy)
    return jax.tree.unflatten(structure, [d if j == i else jnp.zeros_like(d) for j, d in enumerate(flat)])


def _equal(method: str, got: Any, truth: Measured, accuracy: float, what: str) -> Finding:
    """Whether the derivative is the same `what`, in every leaf of `truth`."""
    top = largest_entry(truth)
    errors = {path: leaf_error(got[path], g, top) for path, g in truth.items() if g is not None}
    path = max(errors, key=errors.__getitem__)
    passed = bool(errors[path] <= accuracy)
    text = f"the derivative must be the same {what}: largest error {errors[path]:.1e}"
    return Finding(method, passed, text + ("" if passed else f", at {path}"))


# Zeros that JAX does not form: a rule that asks for them gets a SymbolicZero in their place.


def _symbolic(
    function: Callable[[Leaves], PyTree], problem: Problem, hand: Measured, alone: dict[str, Measured], accuracy: float
) -> Iterator[Finding]:
    """One output without the others, one leaf without the others: as with zeros in their place."""

    def by_output(leaves: Leaves, dy: PyTree) -> list[Gradient]:
        take = lambda i: jax.vjp(lambda leaves: jax.tree.leaves(function(leaves))[i], leaves)
        return [take(i)[1](d)[0] for i, d in enumerate(jax.tree.leaves(dy))]

    def by_leaf(leaves: Leaves, dy: PyTree) -> Gradient:
        take = lambda path: jax.vjp(lambda leaf: function(leaves | {path: leaf}), leaves[path])
        return {path: take(path)[1](dy)[0] for path in leaves}

    forms: dict[str, tuple[Callable, str]] = {"symbolic zeros of leaves": (by_leaf, "for one leaf and for all leaves")}
    if alone:
        forms["symbolic zeros of outputs"] = (by_output, "for an output whose neighbours are not used")
    for method, (form, what) in forms.items():
        try:
            result = jax.device_get(jax.jit(form)(problem.leaves, problem.dy))
        except Exception as error:
            yield Finding(method, False, f"{type(error).__name__}: {first_line(error)[:100]}")
            continue
        if isinstance(result, dict):
            yield _equal(method, result, hand, accuracy, what)
            continue
        keyed = lambda parts: {f"{path} of output {i}": part[path] for i, part in enumerate(parts) for path in hand}
        yield _equal(method, keyed(result), keyed(alone.values()), accuracy, what)


# Level "full": the dtype of what comes back.


def dtype_of_cotangents(problem: Problem) -> Iterator[Finding]:
    """In every precision, the cotangent of a leaf has the leaf's dtype. float64 is let pass: it is the check's own."""
    if not takes_cotangent(problem):
        return
    strange = []
    for dtype in (np.float64, np.float32, jnp.bfloat16):
        try:
            variant = problem.variant(lambda batch: batch, dtype)
            shapes = jax.eval_shape(variant.pullback, variant.leaves, variant.dy)
        except (InputError, TypeError, ValueError, NotImplementedError):
            continue
        for path, g in shapes.items():
            if g is not None and g.dtype not in (variant.leaves[path].dtype, np.float64):
                strange.append(f"{g.dtype} for {path} in {np.dtype(dtype).name}")
    text = "what comes back has the dtype of its leaf" if not strange else f"what comes back is {', '.join(strange)}"
    yield Finding("dtype", not strange, text)
