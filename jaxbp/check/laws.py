"""The full level: the same problem in other precisions, on other batches, under transformations and at hard points.

A batch law (duplicated, split, permuted, one row) needs no rule of its own. Where the loss obeys it, a gradient that is
right on both batches obeys it too. So the hand-written gradient is compared with autodiff's on each altered batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.calls import first_line
from jaxbp.check.cotangents import cotangent_laws, dtype_of_cotangents
from jaxbp.check.differences import EPS, TOLERANCE, Slope, along, directional, slack, unit
from jaxbp.check.domain import inside, mirrored
from jaxbp.check.forward import forward_mode
from jaxbp.check.leaves import Arrays, Gradient, Leaves, Measured, in_dtype
from jaxbp.check.lines import backward_lines, listed
from jaxbp.check.native import DRAWS, MULTIPLE, cast, near
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program, compiled
from jaxbp.check.report import Finding
from jaxbp.check.truth import FLOAT64_TOLERANCE, largest_entry, leaf_error, worst
from jaxbp.check.witnesses import Measurement
from jaxbp.core import PyTree, dot
from jaxbp.errors import InputError

SUSPECTS = 20  # entries of a leaf at which differences are asked
REROUNDED = 8  # points at which autodiff's rounding is asked for
HARD = (0.0, 1e4, -1e4)
EAGER = "without jit"
SECOND_ORDER = ("inside another gradient", "forward over reverse")


def rule_laws(problem: Problem, run: Program, hand: Measured, accuracy: float, seed: int) -> Iterator[Finding]:
    """The laws of every level, of a rule for cotangents or tangents. hand: the leaves that are right."""
    if problem.own_reference and not problem.rules:
        yield Finding("custom rule", None, "the function has none: autodiff is beside itself, and beside differences")
    yield from cotangent_laws(problem, run, hand, accuracy)
    yield from forward_mode(problem, run, hand, accuracy, seed)


def laws(run: Program, accuracy: float) -> list[Finding]:
    """Every law of the full level on the problem of a program."""
    problem = run.problem
    if not problem.differentiable or not problem.traceable:
        untraced = problem.name if problem.differentiable else "the function"
        return [Finding("full level", None, f"not asked: JAX cannot trace {untraced}")]
    never = listed(backward_lines(problem).rest()) if problem.layer is None else []
    unrun = [Finding("lines", None, f"these never ran: {'; '.join(never)}")] if never else []
    precisions = [precision(problem, dtype) for dtype in (np.float32, jnp.bfloat16)]
    return [
        *unrun,
        *precisions,
        *dtype_of_cotangents(problem),
        *_batches(run, accuracy),
        *_transforms(run, accuracy),
        *_hard_points(run, accuracy),
    ]


def precision(problem: Problem, dtype: Any) -> Finding:
    """The error against the float64 derivative at the rounded point, in multiples of autodiff's own."""
    name = np.dtype(dtype).name
    dtypes = dict.fromkeys(problem.leaves, dtype)
    rounded = lambda tree: in_dtype(in_dtype(tree, dtype), np.float64)
    try:
        low = problem.variant(lambda batch: batch, dtype)
        run = compiled(lambda leaves: (low.pullback(leaves, low.dy), jax.vjp(low.forward, leaves)[1](low.dy)[0]), low)
        exact = problem.variant(rounded, np.float64)
        truth = compiled(lambda leaves: jax.vjp(exact.forward, leaves)[1](rounded(low.dy))[0], exact)
        hand_error = auto_error = 0.0
        for draw in range(DRAWS):
            leaves = cast(mirrored(problem.domain, near(problem.leaves, draw, dtypes)), dtypes)
            hand, auto = jax.device_get(run(leaves))
            right = jax.device_get(truth(rounded(leaves)))
            if any(g is None for g in hand.values()):
                return Finding(name, None, "not asked: a leaf is missing")
            hand_error = max(hand_error, _worst(hand, right))
            auto_error = max(auto_error, _worst(auto, right))
    except jax.errors.TracerArrayConversionError:
        return Finding(name, None, "not asked: NumPy code is checked in float64 alone")
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
    errors = [gap(got[path], right) / (scale(right) or 1) for path, right in truth.items()]
    return float(np.nan_to_num(np.max(errors, initial=0), nan=np.inf, posinf=np.inf))


def _batches(run: Program, accuracy: float) -> Iterator[Finding]:
    """Hand-written against autodiff on altered batches."""
    problem = run.problem
    n = problem.size
    if n is None:
        return
    shared = [path for path, leaf in problem.leaves.items() if leaf.shape[:1] == (n,) and leaf.ndim > 1]
    if shared and problem.layer is None:
        yield Finding("other batches", None, f"not asked: {shared[0]} has {n} rows too, which may go with the batch's")
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
        yield _judged(name, Program(variant), variant.leaves, accuracy)
    if problem.by_row:
        yield from _rows(run, n)
    if problem.delta is not None:
        masked = problem.variant(lambda batch: batch | {"weight": 0 * batch["weight"]}, np.float64)
        yield _judged("all rows masked", Program(masked), masked.leaves, accuracy)


def _taken(rows: np.ndarray, batch: PyTree) -> PyTree:
    """Those rows of every array of the batch."""
    return jax.tree.map(lambda a: a[rows] if np.ndim(a) else a, batch)


def _rows(run: Program, n: int) -> Iterator[Finding]:
    """What a layer must obey whose rows are independent: the sum over examples, and rows that are masked."""
    row = lambda d: jnp.arange(n).reshape(-1, *[1] * (d.ndim - 1))
    only = lambda i: jax.tree.map(lambda d: jnp.where(row(d) == i, d, 0), run.problem.dy)
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


def _judged(name: str, run: Program, leaves: Leaves, accuracy: float) -> Finding:
    """Hand-written against autodiff at a point. Where they differ, differences decide."""
    hand, truth = run.gradients(leaves)
    errors = _errors(hand, truth)
    wrong = [path for path, error in errors.items() if not error <= accuracy]
    slopes = [slope for path in wrong for slope in _slopes(run, path, hand[path], truth[path], leaves)]
    if not slopes or run.problem.surrogate:
        return _compared(name, hand, truth, accuracy)
    if None in slopes:
        noise = _noise(run, leaves, hand, truth)
        if all(errors[path] <= MULTIPLE * noise[path] for path in wrong):
            text = f"rounding decides here: by the last digits of the leaves {wrong[0]} moves by {noise[wrong[0]]:.1e}"
            return Finding(name, None, text)
        here = Measurement(replace(run.problem, leaves=leaves), hand, truth, {}, accuracy, autodiff=truth)
        shapes = [[getattr(g[path], "shape", None) for path in wrong] for g in (hand, truth)]
        if None in shapes[0] or shapes[0] != shapes[1] or not here.conventional(wrong):
            return _compared(name, hand, truth, accuracy)
        return Finding(name, None, f"a kink: {', '.join(wrong)} takes another slope than autodiff at all ties")
    if all(slope.kink for slope in slopes if slope):
        return Finding(name, None, f"a kink: {', '.join(wrong)} takes another side's slope than autodiff")
    return Finding(name, None, f"autodiff is wrong here: differences are with the hand-written {', '.join(wrong)}")


def _noise(run: Program, leaves: Leaves, hand: Measured, truth: Measured) -> dict[str, float]:
    """How far rounding moves both derivatives, relative to autodiff's: every leaf grows by a few ulp.

    All entries of a leaf grow by one factor, so that ties stay ties.
    """
    top = largest_entry(truth)
    noise = dict.fromkeys(truth, 0.0)
    for draw in range(REROUNDED):
        ulps = iter(np.random.default_rng((draw, 29)).integers(1, 9, len(leaves)))
        moved = run.gradients({path: a * (1 + int(next(ulps)) * EPS) for path, a in leaves.items()})
        for path, right in truth.items():
            for before, after in zip((hand[path], right), (g[path] for g in moved), strict=True):
                if before is None or after is None or right is None or before.shape != after.shape:
                    continue
                if np.isfinite(before).all() and np.isfinite(after).all():
                    noise[path] = max(noise[path], leaf_error(after - before + right, right, top))
    return noise


def _slopes(
    run: Program, path: str, hand: np.ndarray | None, truth: np.ndarray | None, leaves: Leaves
) -> Iterator[Slope | None]:
    """The slopes along the entries in which a leaf differs from autodiff; None for one that is not the hand-written.

    Of many entries some are asked, and all of them together, along a random direction.
    """
    if hand is None or truth is None or hand.shape != truth.shape:
        yield None
        return
    floor = 1e-3 * largest_entry(hand)
    wrong = ~(np.abs(hand - truth) <= 1e-9 * max(largest_entry(truth), floor))
    some = np.unique(np.linspace(0, wrong.sum() - 1, SUSPECTS).astype(int))
    directions = [unit(hand.shape, i) for i in np.flatnonzero(wrong)[some]]
    if len(some) < wrong.sum():
        directions.append(wrong * np.random.default_rng(0).normal(size=hand.shape))
    for v in directions:
        g = directional({path: hand}, {path: v})
        slope = along(run, {path: v}, [g], floor, leaves)
        scale = max(abs(g), floor)
        accurate = slope.kink or 10 * slope.error <= 1e-2 * scale
        yield slope if slope.known and accurate and slope.distance(g) <= slack(slope, scale) else None


def _transforms(run: Program, accuracy: float) -> Iterator[Finding]:
    """The same numbers without jit, under vmap, scan and remat; and the second order, by reverse and forward mode.

    The second order is H v either way. Where autodiff of the plain function is off, central differences decide.
    """
    problem = run.problem
    leaves = problem.leaves
    jit = partial(compiled, problem=problem)
    hand = lambda leaves: problem.pullback(leaves, problem.dy)
    true = lambda leaves: jax.vjp(problem.forward, leaves)[1](problem.dy)[0]
    points = [mirrored(problem.domain, {path: c * a for path, a in leaves.items()}) for c in (1, 0.5, -1)]
    several = jax.tree.map(lambda *parts: jnp.stack(parts), *points)
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), leaves)
    forms: dict[str, Callable[[Callable[[Leaves], Gradient]], PyTree]] = {
        EAGER: lambda f: f(leaves),
        "vmap": lambda f: jit(jax.vmap(f))(several),
        "scan": lambda f: jit(lambda several: jax.lax.map(f, several))(several),
        "remat": lambda f: jit(jax.checkpoint(f))(leaves),
        "inside another gradient": lambda f: jit(jax.grad(lambda leaves: dot(f(leaves), direction)))(leaves),
        "forward over reverse": lambda f: jit(lambda leaves: jax.jvp(f, (leaves,), (direction,))[1])(leaves),
    }
    if problem.first_order:
        forms = {name: form for name, form in forms.items() if name not in SECOND_ORDER}
    for name, form in forms.items():
        try:
            truth = run().truth if name == EAGER else jax.device_get(form(true))
        except Exception as error:
            yield Finding(name, None, f"not asked: autodiff cannot either ({first_line(error)[:80]})")
            continue
        try:
            result = jax.device_get(form(hand))
        except Exception as error:
            asked = name != "forward over reverse"  # a backward with a custom_vjp inside has none, and needs none
            yield Finding(name, False if asked else None, f"{type(error).__name__}: {first_line(error)[:100]}")
            continue
        finding = _compared(name, result, truth, accuracy)
        if (
            name in SECOND_ORDER
            and not finding.passed
            and not problem.surrogate
            and all(g is not None for g in result.values())
        ):
            steps = _curvature(run, direction)
            if worst(result, steps) <= TOLERANCE < worst(truth, steps):
                finding = Finding(name, True, "central differences agree, autodiff's second order is wrong here")
        yield finding


def _curvature(run: Program, direction: Leaves) -> Arrays:
    """H v by central differences of the hand-written derivative."""
    leaves = run.problem.leaves
    moved = lambda h: run({path: a + h * direction[path] for path, a in leaves.items()}).hand
    central = lambda h: jax.tree.map(lambda ahead, behind: (ahead - behind) / (2 * h), moved(h), moved(-h))
    return jax.tree.map(lambda narrow, wide: (4 * narrow - wide) / 3, central(5e-4), central(1e-3))


def _hard_points(run: Program, accuracy: float) -> Iterator[Finding]:
    """At 0, far out, and at equal rows: finite where autodiff is, and equal to it."""
    problem = run.problem
    accuracy = max(accuracy, 1e-9)
    full = lambda point: jax.tree.map(lambda a: jnp.full_like(a, point), problem.leaves)
    points = {f"every leaf {point:g}": full(point) for point in HARD}
    points["equal rows"] = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], a.shape) if a.ndim else a, problem.leaves)
    for name, leaves in points.items():
        if not inside(problem.domain, leaves):
            yield Finding(name, None, "not asked: outside the domain")
            continue
        hand, truth = run.gradients(leaves)
        if not np.isfinite(largest_entry(truth)):
            finite = all(np.all(np.isfinite(g)) for g in hand.values() if g is not None)
            yield Finding(name, None, "autodiff is not finite here" + (", the hand-written one is" if finite else ""))
            continue
        yield _judged(name, run, leaves, accuracy)
