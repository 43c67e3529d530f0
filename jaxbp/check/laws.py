"""The full level: the same problem in other precisions, on other batches, under transformations and at hard points.

A batch law (duplicated, split, permuted, one row) needs no rule of its own. Where the loss obeys it, a gradient that is
right on both batches obeys it too. So the hand-written gradient is compared with autodiff's on each altered batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.calls import first_line
from jaxbp.check.differences import only_kinks
from jaxbp.check.leaves import Arrays, Gradient, Leaves, Measured, in_dtype
from jaxbp.check.native import DRAWS, MULTIPLE, cast, near
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Finding
from jaxbp.check.truth import FLOAT64_TOLERANCE, largest_entry, leaf_error
from jaxbp.core import PyTree, dot
from jaxbp.errors import InputError

HARD = (0.0, 1e4, -1e4)


def laws(problem: Problem, accuracy: float) -> list[Finding]:
    """Every law of the full level on a problem."""
    if not problem.differentiable or not problem.traceable:
        untraced = problem.name if problem.differentiable else "the function"
        return [Finding("full level", None, f"not asked: JAX cannot trace {untraced}")]
    precisions = [precision(problem, dtype) for dtype in (np.float32, jnp.bfloat16)]
    return [
        *precisions,
        *_batches(problem, accuracy),
        *_transforms(problem, accuracy),
        *_hard_points(problem, accuracy),
    ]


def precision(problem: Problem, dtype: Any) -> Finding:
    """The error against the float64 derivative at the rounded point, in multiples of autodiff's own."""
    name = np.dtype(dtype).name
    dtypes = dict.fromkeys(problem.leaves, dtype)
    rounded = lambda tree: in_dtype(in_dtype(tree, dtype), np.float64)
    try:
        low = problem.variant(lambda batch: batch, dtype)
        run = jax.jit(lambda leaves: (low.pullback(leaves, low.dy), jax.vjp(low.forward, leaves)[1](low.dy)[0]))
        exact = problem.variant(rounded, np.float64)
        truth = jax.jit(lambda leaves: jax.vjp(exact.forward, leaves)[1](rounded(low.dy))[0])
        hand_error = auto_error = 0.0
        for draw in range(DRAWS):
            leaves = cast(near(problem.leaves, draw, dtypes), dtypes)
            hand, auto = jax.device_get(run(leaves))
            right = jax.device_get(truth(rounded(leaves)))
            if any(g is None for g in hand.values()):
                return Finding(name, None, "not asked: a leaf is missing")
            hand_error = max(hand_error, _worst(hand, right))
            auto_error = max(auto_error, _worst(auto, right))
    except (TypeError, ValueError, NotImplementedError) as error:
        return Finding(name, None, f"not asked: the forward does not run in it ({first_line(error)[:80]})")
    ulp = 2 * float(jnp.finfo(dtype).eps)
    allowed = MULTIPLE * max(auto_error, ulp)
    return Finding(
        name,
        bool(hand_error <= allowed),
        f"error {hand_error:.1e} against float64, autodiff's {auto_error:.1e}, "
        f"{MULTIPLE} times the larger of that and 2 ulp is allowed: {allowed:.1e}",
    )


def _worst(got: Arrays, truth: Arrays) -> float:
    """As `worst`, but a leaf that is zero by structure (noise even in float64) is judged by the whole reference."""
    top = largest_entry(truth)
    scale = lambda a: top if largest_entry(a) <= 1e-12 * top else max(largest_entry(a), 1e-3 * top)
    gap = lambda g, right: largest_entry(np.asarray(g, np.float64) - right)
    return max((gap(got[path], right) / (scale(right) or 1) for path, right in truth.items()), default=0.0)


def _batches(problem: Problem, accuracy: float) -> Iterator[Finding]:
    """Hand-written against autodiff on altered batches."""
    n = problem.size
    if n is None:
        return
    index = np.arange(n)
    altered = {"duplicated batch": np.repeat(index, 2), "permuted batch": index[::-1], "one row": index[:1]}
    if n > 2:
        altered["ragged split"] = index[: n - 1 - n // 3]
    for name, rows in altered.items():
        try:
            variant = problem.variant(partial(_taken, rows), np.float64)
        except InputError as error:
            yield Finding(name, None, f"not asked: {error}")
            continue
        yield _compared(name, *Program(variant).gradients(variant.leaves), accuracy)
    if problem.by_row:
        yield from _rows(problem, n)
    if problem.delta is not None:
        masked = problem.variant(lambda batch: batch | {"weight": 0 * batch["weight"]}, np.float64)
        yield _compared("all rows masked", *Program(masked).gradients(masked.leaves), accuracy)


def _taken(rows: np.ndarray, batch: PyTree) -> PyTree:
    """Those rows of every array of the batch."""
    return jax.tree.map(lambda a: a[rows] if np.ndim(a) else a, batch)


def _rows(problem: Problem, n: int) -> Iterator[Finding]:
    """What a layer must obey whose rows are independent: the sum over examples, and rows that are masked."""
    run = Program(problem)
    row = lambda d: jnp.arange(n).reshape(-1, *[1] * (d.ndim - 1))
    only = lambda i: jax.tree.map(lambda d: jnp.where(row(d) == i, d, 0), problem.dy)
    whole = run().hand
    parts = [run(dy=only(i)).hand for i in range(n)]
    summed = jax.tree.map(lambda *rows: sum(rows), *parts)
    yield _compared("sum of per-example gradients", summed, whole, FLOAT64_TOLERANCE)
    masked = largest_entry(run(dy=only(-1)).hand)
    yield Finding("all rows masked", masked == 0, f"the largest entry is {masked:.1e}")


def _errors(hand: Measured, truth: Measured) -> dict[str, float]:
    """The error of every leaf; inf for a missing one."""
    top = largest_entry(truth)
    error = lambda g, right: np.inf if g is None or right is None else leaf_error(g, right, top)
    return {path: error(hand[path], right) for path, right in truth.items()}


def _compared(name: str, hand: Measured, truth: Measured, accuracy: float) -> Finding:
    errors = _errors(hand, truth)
    path = max(errors, key=errors.__getitem__)
    passed = bool(errors[path] <= accuracy)
    return Finding(name, passed, f"largest error {errors[path]:.1e}" + ("" if passed else f", at {path}"))


def _transforms(problem: Problem, accuracy: float) -> Iterator[Finding]:
    """The same numbers without jit, under vmap, scan and remat, and inside another gradient."""
    leaves = problem.leaves
    hand = lambda leaves: problem.pullback(leaves, problem.dy)
    true = lambda leaves: jax.vjp(problem.forward, leaves)[1](problem.dy)[0]
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), leaves)
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), leaves)
    forms: dict[str, Callable[[Callable[[Leaves], Gradient]], PyTree]] = {
        "without jit": lambda f: f(leaves),
        "vmap": lambda f: jax.jit(jax.vmap(f))(several),
        "scan": lambda f: jax.jit(lambda several: jax.lax.map(f, several))(several),
        "remat": lambda f: jax.jit(jax.checkpoint(f))(leaves),
        "inside another gradient": lambda f: jax.jit(jax.grad(lambda leaves: dot(f(leaves), direction)))(leaves),
    }
    if problem.first_order:
        del forms["inside another gradient"]
    for name, form in forms.items():
        try:
            truth = jax.device_get(form(true))
        except Exception as error:
            yield Finding(name, None, f"not asked: autodiff cannot either ({first_line(error)[:80]})")
            continue
        try:
            result = jax.device_get(form(hand))
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {first_line(error)[:100]}")
            continue
        yield _compared(name, result, truth, accuracy)


def _hard_points(problem: Problem, accuracy: float) -> Iterator[Finding]:
    """At 0, far out, and at equal rows: finite where autodiff is, and equal to it."""
    run = Program(problem)
    accuracy = max(accuracy, 1e-9)
    full = lambda point: jax.tree.map(lambda a: jnp.full_like(a, point), problem.leaves)
    points = {f"every leaf {point:g}": full(point) for point in HARD}
    points["equal rows"] = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], a.shape) if a.ndim else a, problem.leaves)
    for name, leaves in points.items():
        hand, truth = run.gradients(leaves)
        if not np.isfinite(largest_entry(truth)):
            finite = all(np.all(np.isfinite(g)) for g in hand.values() if g is not None)
            yield Finding(name, None, "autodiff is not finite here" + (", the hand-written one is" if finite else ""))
            continue
        finding = _compared(name, hand, truth, accuracy)
        wrong = [path for path, error in _errors(hand, truth).items() if error > accuracy]
        if wrong and all(only_kinks(run, path, hand[path], truth[path], leaves) for path in wrong):
            finding = Finding(name, None, f"a kink: {', '.join(wrong)} takes another side's slope than autodiff")
        yield finding
