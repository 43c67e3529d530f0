"""The full level: other precisions, other batches, other transformations, hard points. Each is the problem once more.

A batch law (duplicated, split, permuted, one row) needs no rule of its own: where the loss obeys it, a gradient that is
right on both batches obeys it too, so the hand-written gradient is compared with autodiff's on each altered batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.differences import only_kinks
from jaxbp.check.leaves import Leaves, in_dtype
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Finding
from jaxbp.check.truth import FLOAT64_TOLERANCE, largest_entry, leaf_errors
from jaxbp.core import PyTree
from jaxbp.errors import InputError

DRAWS = 4  # points at which autodiff's own error in a lower precision is measured
MULTIPLE = 4  # of autodiff's own error, that a hand-written derivative may reach
HARD = (0.0, 1e4, -1e4)


def laws(problem: Problem, accuracy: float) -> list[Finding]:
    """Every law of the full level on a problem."""
    if not problem.differentiable or not problem.traceable:
        return [
            Finding(
                "full level",
                None,
                "not asked: JAX cannot trace " + ("the function" if problem.traceable else problem.name),
            )
        ]
    found = [_precision(problem, dtype) for dtype in (np.float32, jnp.bfloat16)]
    return [*found, *_batches(problem, accuracy), *_transforms(problem, accuracy), *_hard_points(problem, accuracy)]


def _precision(problem: Problem, dtype: np.dtype) -> Finding:
    """The error against the float64 derivative at the rounded point, in multiples of autodiff's own."""
    name = np.dtype(dtype).name
    rounded = lambda tree: in_dtype(in_dtype(tree, dtype), np.float64)
    try:
        low = problem.variant(lambda batch: batch, dtype)
        run = jax.jit(lambda leaves: (low.pullback(leaves, low.dy), jax.vjp(low.forward, leaves)[1](low.dy)[0]))
        exact = problem.variant(rounded, np.float64)
        truth = jax.jit(lambda leaves: jax.vjp(exact.forward, leaves)[1](rounded(low.dy))[0])
        hand_error = auto_error = 0.0
        for draw in range(DRAWS):
            noise = np.random.default_rng(draw)
            moved = {
                k: jnp.asarray(a * (1 + 0.01 * draw * noise.normal(size=a.shape)), dtype)
                for k, a in problem.leaves.items()
            }
            hand, auto = jax.device_get(run(moved))
            right = jax.device_get(truth(rounded(moved)))
            if any(g is None for g in hand.values()):
                return Finding(name, None, "not asked: a leaf is missing")
            hand_error, auto_error = max(hand_error, _worst(hand, right)), max(auto_error, _worst(auto, right))
    except (TypeError, ValueError, NotImplementedError) as error:
        return Finding(name, None, f"not asked: the forward does not run in it ({str(error).splitlines()[0][:80]})")
    ulp = 2 * float(jnp.finfo(dtype).eps)
    allowed = MULTIPLE * max(auto_error, ulp)
    return Finding(
        name,
        bool(hand_error <= allowed),
        f"error {hand_error:.1e} against float64, autodiff's {auto_error:.1e}, "
        f"{MULTIPLE} times the larger of that and 2 ulp is allowed: {allowed:.1e}",
    )


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
            p = problem.variant(
                lambda batch, rows=rows: jax.tree.map(lambda a: a[rows] if np.ndim(a) else a, batch), np.float64
            )
        except InputError as error:
            yield Finding(name, None, f"not asked: {error}")
            continue
        found = Program(p)()
        yield _compared(name, found.hand, found.truth, accuracy)
    if problem.by_row:
        yield from _rows(problem)
    if problem.delta is not None:
        masked = problem.variant(lambda batch: batch | {"weight": 0 * batch["weight"]}, np.float64)
        found = Program(masked)()
        yield _compared("all rows masked", found.hand, found.truth, accuracy)


def _rows(problem: Problem) -> Iterator[Finding]:
    """What only a layer whose rows do not see each other must obey: the sum over examples, and rows that are masked."""
    run = Program(problem)
    row = lambda d: jnp.arange(problem.size).reshape(-1, *[1] * (d.ndim - 1))
    only = lambda i: jax.tree.map(lambda d: jnp.where(row(d) == i, d, 0), problem.dy)
    whole, parts = run().hand, [run(dy=only(i)).hand for i in range(problem.size)]
    summed = {path: sum(part[path] for part in parts) for path in whole}
    yield _compared("sum of per-example gradients", summed, whole, FLOAT64_TOLERANCE)
    nothing = run(dy=only(-1)).hand
    yield Finding("all rows masked", largest_entry(nothing) == 0, f"the largest entry is {largest_entry(nothing):.1e}")


def _compared(name: str, hand: dict, truth: dict, accuracy: float) -> Finding:
    if any(g is None for g in hand.values()):
        return Finding(name, False, "a leaf is missing")
    errors = leaf_errors(hand, truth)
    path = max(errors, key=errors.__getitem__)
    return Finding(
        name,
        bool(errors[path] <= accuracy),
        f"largest error {errors[path]:.1e}" + ("" if errors[path] <= accuracy else f", at {path}"),
    )


def _transforms(problem: Problem, accuracy: float) -> Iterator[Finding]:
    """The same numbers without jit, under vmap, scan and remat, and inside another gradient."""
    hand = lambda leaves: problem.pullback(leaves, problem.dy)
    true = lambda leaves: jax.vjp(problem.forward, leaves)[1](problem.dy)[0]
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), problem.leaves)
    direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), problem.leaves)
    inner = lambda f: lambda leaves: sum(jnp.vdot(a, direction[k]) for k, a in f(leaves).items())
    forms: dict[str, Callable[[Callable], Callable[[Leaves], PyTree]]] = {
        "without jit": lambda f: lambda _: f(problem.leaves),
        "vmap": lambda f: lambda _: jax.jit(jax.vmap(f))(several),
        "scan": lambda f: lambda _: jax.jit(lambda many: jax.lax.map(f, many))(several),
        "remat": lambda f: lambda _: jax.jit(jax.checkpoint(f))(problem.leaves),
        "inside another gradient": lambda f: lambda _: jax.jit(jax.grad(inner(f)))(problem.leaves),
    }
    for name, form in forms.items():
        try:
            want = jax.device_get(form(true)(None))
        except Exception as error:
            yield Finding(name, None, f"not asked: autodiff cannot either ({str(error).splitlines()[0][:80]})")
            continue
        try:
            got = jax.device_get(form(hand)(None))
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {str(error).splitlines()[0][:100]}")
            continue
        yield _compared(name, got, want, accuracy)


def _hard_points(problem: Problem, accuracy: float) -> Iterator[Finding]:
    """At 0, far out, and at equal rows: finite where autodiff is, and equal to it."""
    run = Program(problem)
    points = {
        f"every leaf {point:g}": jax.tree.map(lambda a, point=point: jnp.full_like(a, point), problem.leaves)
        for point in HARD
    }
    points["equal rows"] = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], a.shape) if a.ndim else a, problem.leaves)
    for name, leaves in points.items():
        found = run(leaves)
        if not np.isfinite(largest_entry(found.truth)):
            finite = all(np.all(np.isfinite(g)) for g in found.hand.values() if g is not None)
            yield Finding(name, None, "autodiff is not finite here" + (", the hand-written one is" if finite else ""))
            continue
        finding = _compared(name, found.hand, found.truth, max(accuracy, 1e-9))
        errors = leaf_errors(found.hand, found.truth) if finding.passed is False else {}
        wrong = [path for path, error in errors.items() if error > max(accuracy, 1e-9)]
        if wrong and all(only_kinks(run, path, found.hand[path], found.truth[path], leaves) for path in wrong):
            finding = Finding(name, None, f"a kink: {', '.join(wrong)} takes another side's slope than autodiff")
        yield finding


def _worst(got: dict, want: dict) -> float:
    """As `worst`, but a leaf that is zero by structure (noise even in float64) is judged by the whole reference."""
    top = largest_entry(want)
    scale = lambda w: top if largest_entry(w) <= 1e-12 * top else max(largest_entry(w), 1e-3 * top)
    gap = lambda g, w: largest_entry(np.asarray(g, np.float64) - w)
    return max((gap(got[k], w) / (scale(w) or 1) for k, w in want.items()), default=0.0)
