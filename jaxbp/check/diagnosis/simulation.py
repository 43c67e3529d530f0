"""What every known mistake would give on a problem: the derivative with rows left out, at a wrong point, a rule broken.

The same for every wrong gradient of the problem, and computed when it is first asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check.diagnosis.flow import Flow, flow_of
from jaxbp.check.diagnosis.jaxprs import own_lines, traced
from jaxbp.check.diagnosis.mends import Mends
from jaxbp.check.diagnosis.mutants import mutants
from jaxbp.check.diagnosis.repairs import Repair, Repairs
from jaxbp.check.diagnosis.rerun import Evaluated
from jaxbp.check.guard import guarded
from jaxbp.check.leaves import Arrays, Counts, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Cause, Explanation, Finding
from jaxbp.core import PyTree

Prediction = tuple[Explanation, Arrays]  # a mistake, and the derivative that it gives; nan where it says nothing


@dataclass(frozen=True)
class Simulation:
    """The mistakes of a problem. others: the inputs of a model's other layers, by the layer's name.

    A source of mistakes that raises says nothing, and is one more of the findings.
    """

    problem: Problem
    others: dict[str, PyTree] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def predictions(self) -> list[Prediction]:
        """What every mistake that can be played through on this problem would give."""
        if not self.problem.differentiable:
            return []
        return [
            *self._guarded(lambda: _by_rows(self.problem)),
            *self._guarded(lambda: _by_points(self.problem, self.others)),
            *self._guarded(lambda: _by_factors(self.problem)),
            *self._guarded(lambda: mutants(self.flow, self.problem.leaves, self.problem.dy)),
        ]

    def rare(self, truth: Measured) -> list[Prediction]:
        """The same of the mistakes in which something else stands for a factor. truth: the right derivative."""
        if not self.problem.differentiable:
            return []
        known = {path: a for path, a in truth.items() if a is not None}
        return self._guarded(lambda: mutants(self.flow, self.problem.leaves, self.problem.dy, known))

    def repairs(self, hand: Measured, truth: Measured, close: float) -> list[Repair]:
        """The single lines of the hand-written gradient that make it right once they are mended."""
        known = [{path: a for path, a in leaves.items() if a is not None} for leaves in (hand, truth)]
        if not self.problem.traceable or any(len(leaves) < len(self.problem.leaves) for leaves in known):
            return []
        return guarded(lambda: self._repairs(known[0], known[1], close), [], self.findings)

    def _repairs(self, hand: Arrays, truth: Arrays, close: float) -> list[Repair]:
        leaves = self.problem.leaves
        with own_lines():
            program = flow_of(traced(lambda leaves: self.problem.pullback(leaves, self.problem.dy), leaves)[0])
        inputs = tuple(jax.device_get(jax.tree.leaves(leaves)))
        loss = Evaluated(self.flow, inputs) if self.problem.differentiable else None
        paths = sorted(leaves)
        names = dict(zip(program.inputs, paths, strict=True))
        mends = Mends(Evaluated(program, inputs), loss, names, hand, truth, self.counts, close)
        return Repairs(mends, paths).all()

    def _guarded(self, source: Callable[[], Iterable[Prediction]]) -> list[Prediction]:
        return guarded(lambda: list(source()), [], self.findings)

    @cached_property
    def flow(self) -> Flow:
        """The forward pass as a list of operations."""
        return flow_of(traced(self.problem.forward, self.problem.leaves)[0])

    @cached_property
    def counts(self) -> Counts:
        """Named numbers that a wrong factor may be: lengths, and the positions that a mean may go over."""
        if not self.problem.differentiable:
            return self.problem.counts
        shapes = set(self.flow.shapes())
        positions = {f"the {math.prod(s[:-1])} positions of a value of shape {s}": math.prod(s[:-1]) for s in shapes}
        entries = {f"the {math.prod(s)} entries of a value of shape {s}": math.prod(s) for s in shapes}
        return (*self.problem.counts, *((k, float(n)) for k, n in sorted((positions | entries).items()) if n > 1))


def _by_rows(problem: Problem) -> list[Prediction]:
    """Examples or time steps that do not count: by the cotangent's rows, or by a batch without its last example."""
    if problem.size is None or problem.size < 2:
        return []
    if not problem.by_row:
        return _by_shorter_batch(problem, problem.size)
    rows = _masked(problem.dy, 0, "example", Cause.DROPPED)
    steps = _masked(problem.dy, 1, "time step", Cause.LAST_STEP)
    back = jax.jit(lambda dy: jax.vjp(problem.forward, problem.leaves)[1](dy)[0])
    return [(explanation, jax.device_get(back(dy))) for explanation, dy in [*rows, *steps]]


def _by_shorter_batch(problem: Problem, size: int) -> list[Prediction]:
    """The sum over the other examples, and their mean where the loss is a mean over all or over them."""
    try:
        cut = problem.variant(lambda batch: jax.tree.map(lambda a: a[:-1] if np.ndim(a) else a, batch), np.float64)
        truth = Program(cut)().truth
    except Exception:  # a loss that is tied to this batch size
        return []
    dropped = Explanation(Cause.DROPPED, "the last example does not count")
    kept = {path: a for path, a in truth.items() if a.shape == problem.leaves[path].shape}
    factors = (1.0, (size - 1) / size, size / (size - 1))
    return [(dropped, _unsaid(problem.leaves) | {path: c * a for path, a in kept.items()}) for c in factors]


def _masked(dy: PyTree, axis: int, what: str, cause: Cause) -> Iterator[tuple[Explanation, PyTree]]:
    """The cotangent without its first or last entry along the axis, or with that entry alone."""
    least = 1 if axis == 0 else 3  # axes of an output that has time steps: batch, time, features
    if any(d.ndim < least or d.shape[axis] < 2 for d in jax.tree.leaves(dy)):
        return
    for end, name in ((-1, "last"), (0, "first")):
        without = jax.tree.map(lambda d, end=end: jnp.moveaxis(jnp.moveaxis(d, axis, 0).at[end].set(0), 0, axis), dy)
        yield Explanation(cause, f"the {name} {what} does not count"), without
        text = f"only the {name} {what} counts: each one overwrites the sum"
        yield Explanation(Cause.OVERWRITTEN, text), jax.tree.map(jnp.subtract, dy, without)


def _by_points(problem: Problem, others: dict[str, PyTree]) -> Iterator[Prediction]:
    """For a layer: dy passed on untouched, and the derivative with other weights, at its output, at another's input."""
    dy = problem.dy
    if problem.layer is None or "dx" not in problem.leaves or not isinstance(dy, jax.Array):
        return
    x = problem.leaves["dx"]
    weights = {path: a for path, a in problem.leaves.items() if path != "dx"}
    unsaid = _unsaid(problem.leaves)
    derivative = lambda change: jax.device_get(jax.vjp(problem.forward, problem.leaves | change)[1](dy)[0])
    if dy.shape == x.shape:
        yield Explanation(Cause.DERIVATIVE, "dx is dy itself"), unsaid | {"dx": np.asarray(dy)}
    if square := {path: a.T for path, a in weights.items() if a.ndim == 2 and a.shape[0] == a.shape[1]}:
        explanation = Explanation(Cause.TRANSPOSED, "every square weight is transposed in dx")
        yield explanation, unsaid | {"dx": derivative(square)["dx"]}
    if kernels := {path: jnp.flip(a, range(1, a.ndim - 1)) for path, a in weights.items() if a.ndim > 2}:
        explanation = Explanation(Cause.FLIPPED, "the kernel is not flipped in dx")
        yield explanation, unsaid | {"dx": derivative(kernels)["dx"]}
    if dy.shape == x.shape:
        text = "the derivative is taken at its output instead of its input"
        yield Explanation(Cause.POINT, text), derivative({"dx": problem.forward(problem.leaves)})
    for name, z in others.items():
        if isinstance(z, jax.Array) and z.shape == x.shape:
            text = f"the derivative is taken at the input of {name}"
            yield Explanation(Cause.MASK, text), derivative({"dx": z})


def _by_factors(problem: Problem) -> Iterator[Prediction]:
    """Activation and delta paired with the wrong time step, from the layer's own factors where they are right."""
    if problem.layer is None or not problem.setting or not problem.by_row:
        return
    params, x, ctx = problem.setting
    try:
        factors = problem.layer.factors(params, problem.layer.forward(params, x, ctx)[1], problem.dy)
    except Exception:  # a layer under work
        return
    for name, factor in factors.items():
        path = f"grads/{name}"
        if path not in problem.leaves or not hasattr(factor, "a") or factor.a.shape[-2] < 2:
            continue
        shape = problem.leaves[path].shape
        for shift, words in ((1, "before"), (-1, "after")):
            turned = jnp.roll(factor.a, shift, -2)
            pushed = turned.at[..., 0 if shift > 0 else -1, :].set(0)
            for a in (turned, pushed):
                wrong = replace(factor, a=a).gradient()
                if wrong.size == math.prod(shape):
                    text = f"each delta meets the activation of the step {words}"
                    arrays = _unsaid(problem.leaves) | {path: np.asarray(wrong).reshape(shape)}
                    yield Explanation(Cause.SHIFTED, text), arrays


def _unsaid(leaves: Leaves) -> Arrays:
    """nan for every leaf."""
    return {path: np.full(a.shape, np.nan) for path, a in leaves.items()}
