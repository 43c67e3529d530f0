"""One compiled program for everything that is measured: value, hand-written derivative, true derivative, slope.

Central differences, linearity, the adjoint identity and the search for a stale cache run the same program at other
points or with other cotangents. So a check compiles once. Where there are very many entries the value alone is another
program: there the run costs more than the compilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jaxbp.check.calls import operations, repeated
from jaxbp.check.diagnosis.jaxprs import traced as make_jaxpr
from jaxbp.check.domain import inside
from jaxbp.check.leaves import Arrays, Leaves, Measured, on_host
from jaxbp.check.problem import Problem
from jaxbp.check.report import Finding
from jaxbp.check.stages import Staged
from jaxbp.core import PyTree

MANY = 2**18  # entries of all leaves: above that the value has a program of its own


FEW = 2**14  # entries of leaves, data and output: up to that a program compiles as fast as XLA can
UNOPTIMISED = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


def compiled(function: Callable, problem: Problem) -> Callable:
    """The function compiled; of a small problem without the optimisations that take longer than what they save."""
    arrays = jax.tree.leaves((problem.leaves, problem.data, problem.dy))
    return Staged(function, UNOPTIMISED if sum(map(np.size, arrays)) <= FEW else None)


class Pass(NamedTuple):
    """What one evaluation gives."""

    value: float  # <dy, forward>
    hand: Measured  # the hand-written derivative; None for a missing leaf
    truth: Arrays  # autodiff's; empty where JAX cannot differentiate
    slope: float | None  # <dy, J v> along the tangent v; None where JAX has no forward mode


class Program:
    """run(leaves, dy, tangent) -> Pass for a problem, compiled at its first call.

    The first call is made three times. Raises InputError where the results differ by more than rounding. Where they
    differ by rounding, `repeats` says so.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.repeats: Finding | None = None
        self._compiled = compiled(self._everything, problem)
        many = sum(a.size for a in problem.leaves.values()) > MANY
        self._forward = jax.jit(self._value) if many else lambda leaves: self._compiled(leaves, problem.dy, leaves)[0]
        self._new = True

    def __call__(self, leaves: Leaves | None = None, dy: PyTree = None, tangent: Leaves | None = None) -> Pass:
        p = self.problem
        leaves = p.leaves if leaves is None else leaves
        dy = p.dy if dy is None else dy
        tangent = {path: _ones(a) for path, a in leaves.items()} if tangent is None else tangent
        result = self._evaluated(leaves, dy, tangent)
        if self._new:
            self._new = False
            results = [result, *(self._evaluated(leaves, dy, tangent) for _ in range(2))]
            self.repeats = repeated([(r.value, r.truth) for r in results], "the function")
            self.repeats = repeated([r.hand for r in results], p.name) or self.repeats
        return result

    def _evaluated(self, leaves: Leaves, dy: PyTree, tangent: Leaves) -> Pass:
        p = self.problem
        value, hand, truth, slope = jax.device_get(self._compiled(leaves, dy, tangent))
        if not p.traceable:
            hand = {path: None if g is None else np.asarray(g) for path, g in p.pullback(leaves, dy).items()}
        return Pass(self.value(leaves) if value is None else float(value), hand, truth, slope)

    def gradients(self, leaves: Leaves) -> tuple[Measured, Arrays]:
        """The hand-written and the true derivative at other leaves."""
        result = self(leaves)
        return result.hand, result.truth

    def value(self, leaves: Leaves) -> float:
        """<dy, forward> at other leaves; nan outside the domain."""
        p = self.problem
        if not inside(p.domain, leaves):
            return math.nan
        if p.on_numpy:
            outputs = jax.tree.leaves(p.forward(leaves))
            return float(sum(np.vdot(d, y) for d, y in zip(jax.tree.leaves(p.dy), outputs, strict=True)))
        return float(self._forward(leaves))

    def _value(self, leaves: Leaves) -> jax.Array:
        return _inner(self.problem.dy, self.problem.forward(leaves))

    def _everything(self, leaves: Leaves, dy: PyTree, tangent: Leaves) -> tuple:
        p = self.problem
        hand = p.pullback(leaves, dy) if p.traceable else None
        if p.on_numpy:
            return None, hand, {}, None
        if not p.differentiable:
            return _inner(dy, p.forward(leaves)), hand, {}, None
        y, back = jax.vjp(p.forward, leaves)
        return _inner(dy, y), hand, back(dy)[0], _slope(p, leaves, dy, tangent)


def _slope(problem: Problem, leaves: Leaves, dy: PyTree, tangent: Leaves) -> jax.Array | None:
    """<dy, J tangent> by forward mode; None through a jax.custom_vjp, which has none."""
    closed, structure = make_jaxpr(problem.forward, leaves)
    if any(eqn.primitive.name == "custom_vjp_call" for eqn in operations(closed.jaxpr)):
        return None
    forward = lambda leaves: jax.tree.unflatten(structure, jaxpr_as_fun(closed)(*jax.tree.leaves(leaves)))
    try:
        return _inner(dy, jax.jvp(forward, (leaves,), (tangent,))[1])
    except TypeError:
        return None


def _ones(leaf: jax.Array) -> jax.Array:
    return jnp.asarray(np.ones_like(here)) if isinstance(here := on_host(leaf), np.ndarray) else jnp.ones_like(leaf)


def _inner(a: PyTree, b: PyTree) -> jax.Array:
    """The inner product of two equal trees, whatever their shardings are."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
    return sum(jax.tree.leaves(products), jnp.asarray(0.0))
