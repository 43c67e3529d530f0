"""What is wrong with a gradient: every known mistake is played through, and those that give its very numbers are named.

Three sources, all exact in float64 (a match is no guess): - patterns: the wrong array is a simple image of the true
one (a factor, transposed, flipped, permuted, summed, swapped);
- mutants: the forward pass differentiated with one operation's rule broken (`mutation`), rows or time steps left out;
- behaviour: the hand-written gradient does not move when its inputs do (a stale cache).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.jaxprs import traced
from jaxbp.check.diagnosis.mutants import mutants, operands
from jaxbp.check.diagnosis.patterns import patterns, same
from jaxbp.check.leaves import Leaves
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Cause, Explanation, Leaf
from jaxbp.core import Layer, PyTree

Arrays = dict[str, np.ndarray]
Prediction = tuple[Explanation, Arrays]


class Evidence:
    """All that is known of a wrong gradient. What does not depend on it (`predictions`) is computed once."""

    def __init__(
        self,
        problem: Problem,
        hand: Arrays,
        truth: Arrays,
        accuracy: float,
        evaluate: Callable[[Leaves], tuple[Arrays, Arrays | None]],
        others: dict[str, PyTree] | None = None,
    ) -> None:
        """evaluate(leaves) -> (hand-written, true) gradient elsewhere; others: inputs of a model's other layers."""
        self.problem, self.hand, self.truth, self.evaluate = problem, hand, truth, evaluate
        self.close = max(1e-9, 30 * accuracy)
        self.others = others or {}

    @cached_property
    def predictions(self) -> list[Prediction]:
        """What every mistake that can be played through on this problem would give."""
        if not self.problem.differentiable:
            return []
        return [
            *_by_rows(self.problem),
            *_by_layer(self.problem, self.others),
            *_by_factors(self.problem),
            *_by_mutants(self.problem),
        ]

    @cached_property
    def counts(self) -> tuple[tuple[str, float], ...]:
        """Named numbers that a wrong factor may be: lengths, and the positions that a mean may go over."""
        if not self.problem.differentiable:
            return self.problem.counts
        closed, _ = traced(self.problem.forward, self.problem.leaves)
        shapes = {getattr(v.aval, "shape", ()) for v in operands(closed.jaxpr)}
        positions = {f"the {math.prod(s[:-1])} positions of a value of shape {s}": math.prod(s[:-1]) for s in shapes}
        entries = {f"the {math.prod(s)} entries of a value of shape {s}": math.prod(s) for s in shapes}
        return (*self.problem.counts, *((k, float(n)) for k, n in sorted((positions | entries).items()) if n > 1))

    @cached_property
    def still(self) -> dict[str, str]:
        """Path -> what was moved without any effect on the hand-written gradient, though the true one moves."""
        found = {}
        for name, leaves in moves(self.problem):
            hand, truth = self.evaluate(leaves)
            for path, was in self.hand.items():
                rests = was is not None and np.any(was) and same(hand[path], was, 1e-13)
                if rests and truth is not None and not same(truth[path], self.truth[path], 1e-6):
                    found[path] = name
        return found


def moves(problem: Problem) -> list[tuple[str, Leaves]]:
    """Other points: the parameters moved, the inputs moved, everything moved."""
    noise = np.random.default_rng(11)
    moved = lambda first: {
        k: a + 0.1 * noise.normal(size=a.shape) if k.startswith(first) else a for k, a in problem.leaves.items()
    }
    if "dx" not in problem.leaves:
        return [("its arguments", moved(""))]
    parts = [("the parameters", "grads"), ("the inputs", "dx")]
    return [(name, moved(first)) for name, first in parts if any(k.startswith(first) for k in problem.leaves)]


def explain(leaf: Leaf, evidence: Evidence) -> Leaf:
    """The leaf with every cause that gives its numbers, the likeliest first."""
    hand, truth = evidence.hand[leaf.path], evidence.truth[leaf.path]
    if hand is None:
        return replace(leaf, causes=(Explanation(Cause.MISSING, "no gradient is returned for it"),))
    if truth is None:
        return leaf
    found = list(
        patterns(leaf.path, hand, truth, evidence.truth, evidence.problem.leaves, evidence.counts, evidence.close)
    )
    vague = [e for e in found if e.cause in (Cause.FACTOR, Cause.PRECISION, Cause.UNKNOWN)]
    if hand.shape == truth.shape and hand.size > 1:
        found += [e for e, arrays in evidence.predictions if same(hand, arrays[leaf.path], evidence.close)]
    if leaf.path in evidence.still:
        text = f"it stays the same when {evidence.still[leaf.path]} change, and the true one does not"
        found.append(Explanation(Cause.STALE, text))
    sure = [e for e in found if e not in vague]
    return replace(leaf, causes=tuple(dict.fromkeys(sure + vague)))


def _by_mutants(problem: Problem) -> list[Prediction]:
    try:
        found = mutants(problem.forward, problem.leaves, problem.dy)
    except Exception:  # an operation that cannot be rerun: a report without this source is better than none
        return []
    return [(Explanation(m.cause, m.text), arrays) for m, arrays in found]


def _by_rows(problem: Problem) -> list[Prediction]:
    """Examples or time steps that do not count: by the cotangent's rows, or by a batch without them."""
    if problem.size is None or problem.size < 2:
        return []
    if not problem.by_row:
        n = problem.size
        cut = problem.variant(lambda batch: jax.tree.map(lambda a: a[:-1] if np.ndim(a) else a, batch), np.float64)
        try:
            arrays = Program(cut)().truth
        except Exception:  # a loss that is tied to this batch size
            return []
        scaled = lambda c: {k: c * a for k, a in arrays.items() if a.shape == problem.leaves[k].shape}
        text = "the last example does not count"
        full = lambda some: {k: some.get(k, np.full(a.shape, np.nan)) for k, a in problem.leaves.items()}
        return [(Explanation(Cause.DROPPED, text), full(scaled(c))) for c in (1.0, (n - 1) / n, n / (n - 1))]
    rows = _masks(problem.dy, 0, "example", Cause.DROPPED)
    steps = _masks(problem.dy, 1, "time step", Cause.LAST_STEP)
    back = jax.jit(lambda dy: jax.vjp(problem.forward, problem.leaves)[1](dy)[0])
    return [(explanation, jax.device_get(back(dy))) for explanation, dy in [*rows, *steps]]


def _masks(dy: PyTree, axis: int, what: str, cause: Cause) -> Iterator[tuple[Explanation, PyTree]]:
    if any(d.ndim <= axis or d.shape[axis] < 2 for d in jax.tree.leaves(dy)) or (
        axis and any(d.ndim < 3 for d in jax.tree.leaves(dy))
    ):
        return
    at = lambda d, i: (jnp.arange(d.shape[axis]) == i % d.shape[axis]).reshape(-1, *[1] * (d.ndim - axis - 1))
    for i, name in ((-1, "last"), (0, "first")):
        without = jax.tree.map(lambda d, i=i: jnp.where(at(d, i), 0, d), dy)
        yield Explanation(cause, f"the {name} {what} does not count"), without
        alone = jax.tree.map(lambda d, i=i: jnp.where(at(d, i), d, 0), dy)
        yield Explanation(Cause.OVERWRITTEN, f"only the {name} {what} counts: each one overwrites the sum"), alone


def _by_layer(problem: Problem, others: dict[str, PyTree]) -> list[Prediction]:
    """For a layer that keeps the shape: dy passed on untouched, the derivative at its output, or at another's input."""
    layer: Layer | None = problem.layer
    if layer is None or "dx" not in problem.leaves or not isinstance(problem.dy, jax.Array):
        return []
    x, nothing = problem.leaves["dx"], {k: np.full(a.shape, np.nan) for k, a in problem.leaves.items()}
    found = []
    if problem.dy.shape == x.shape:
        found.append((Explanation(Cause.DERIVATIVE, "dx is dy itself"), nothing | {"dx": np.asarray(problem.dy)}))
    at = lambda change: nothing | {"dx": jax.device_get(jax.vjp(problem.forward, change)[1](problem.dy)[0]["dx"])}
    square = {k: a.T for k, a in problem.leaves.items() if k != "dx" and a.ndim == 2 and a.shape[0] == a.shape[1]}
    if square:
        found.append(
            (Explanation(Cause.TRANSPOSED, "every square weight is transposed in dx"), at(problem.leaves | square))
        )
    kernels = {k: jnp.flip(a, range(1, a.ndim - 1)) for k, a in problem.leaves.items() if k != "dx" and a.ndim > 2}
    if kernels:
        found.append((Explanation(Cause.FLIPPED, "the kernel is not flipped in dx"), at(problem.leaves | kernels)))
    points = {"its output instead of its input": problem.forward(problem.leaves)} if problem.dy.shape == x.shape else {}
    points |= {f"the input of {name}": z for name, z in others.items()}
    for name, z in points.items():
        if isinstance(z, jax.Array) and z.shape == x.shape:
            arrays = jax.vjp(problem.forward, problem.leaves | {"dx": z})[1](problem.dy)[0]
            cause = Cause.MASK if name.startswith("the input") else Cause.POINT
            found.append((Explanation(cause, f"the derivative is taken at {name}"), jax.device_get(arrays)))
    return found


def _by_factors(problem: Problem) -> list[Prediction]:
    """Activation and delta paired with the wrong time step, from the layer's own factors where they are right."""
    if problem.layer is None or not problem.setting or not problem.by_row:
        return []
    params, x, ctx = problem.setting
    nothing = {k: np.full(a.shape, np.nan) for k, a in problem.leaves.items()}
    found = []
    try:
        factors = problem.layer.factors(params, problem.layer.forward(params, x, ctx)[1], problem.dy)
    except Exception:  # a layer under work
        return []
    for name, factor in factors.items():
        path = f"grads/{name}"
        if path not in nothing or not hasattr(factor, "a") or factor.a.shape[-2] < 2:
            continue
        for shift, words in ((1, "before"), (-1, "after")):
            for rolled in (jnp.roll(factor.a, shift, -2), _pushed(factor.a, shift)):
                wrong = replace(factor, a=rolled).gradient()
                if wrong.size == nothing[path].size:
                    text = f"each delta meets the activation of the step {words}"
                    found.append(
                        (
                            Explanation(Cause.SHIFTED, text),
                            nothing | {path: np.asarray(wrong).reshape(nothing[path].shape)},
                        )
                    )
    return found


def _pushed(a: jax.Array, shift: int) -> jax.Array:
    """Shifted along S with zeros coming in."""
    edge = jnp.arange(a.shape[-2]) == (0 if shift > 0 else a.shape[-2] - 1)
    return jnp.where(edge[:, None], 0, jnp.roll(a, shift, -2))
