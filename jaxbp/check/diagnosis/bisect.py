"""The first wrong step of a model's backward pass: every layer is judged on the very delta that it received.

The deltas that reach a layer may be wrong already; whether the layer itself is right does not depend on that. So
the first wrong layer in backward order is found exactly, however deep the model and however many layers are wrong.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import jax
import numpy as np

from jaxbp.check.diagnosis.explain import Evidence, explain
from jaxbp.check.diagnosis.simulation import Simulation
from jaxbp.check.leaves import Gradient, Leaves
from jaxbp.check.problem import Problem, layer_problem
from jaxbp.check.program import Program
from jaxbp.check.report import Finding, Leaf
from jaxbp.check.truth import largest_entry, leaf_error, worst
from jaxbp.core import Context, Layer, PyTree, Static, map_leaves, path_name, register
from jaxbp.wrappers import Keep, Kept


@partial(register, data_fields=["params", "kept", "dy", "hand", "truth", "order"], meta_fields=["layer"])
@dataclass(frozen=True)
class Step:
    """A leaf layer's part in a backward pass; order: its turn, and the rank of its delta without depth axes."""

    layer: Layer
    params: PyTree
    kept: Kept
    dy: PyTree
    hand: Gradient
    truth: Leaves
    order: Static

    @property
    def depth(self) -> int:
        """The blocks of the Stack that this part stands for; 0 outside a Stack."""
        delta = jax.tree.leaves(self.dy)[0]
        return len(delta) if delta.ndim > self.order.value[1] else 0

    def problem(self) -> Problem:
        """The layer by itself, on the delta that reached it."""
        return replace(layer_problem(self.layer, self.params, self.kept.x, self.kept.ctx.value), dy=self.dy)

    def wrong(self, accuracy: float) -> list[str]:
        """The leaves that the layer gets wrong on the delta that reached it."""
        top = largest_entry(self.truth)
        error = lambda g, truth: np.inf if g is None else leaf_error(g, truth, top)
        return [path for path, truth in self.truth.items() if not error(self.hand[path], truth) <= accuracy]


def steps(model: Layer, params: PyTree, x: PyTree, ctx: Context, dy: PyTree) -> list[tuple[str, Step]]:
    """Every leaf layer's part by name, the last layer first; the blocks of a Stack one by one."""
    is_step = lambda node: isinstance(node, Step)
    flat = jax.tree_util.tree_flatten_with_path(_parts(model, params, x, ctx, dy), is_leaf=is_step)[0]
    named = [(path_name(path), step) for path, step in flat]
    return _in_order(sorted(named, key=lambda pair: pair[1].order.value))


@partial(jax.jit, static_argnums=0)
def _parts(model: Layer, params: PyTree, x: PyTree, ctx: Context, dy: PyTree) -> PyTree:
    """The outputs of a sweep with every leaf layer's `Step`."""
    order = itertools.count()

    def part(layer: Keep, params: PyTree, kept: Kept, dy: PyTree) -> tuple[PyTree, Step]:
        problem = layer_problem(layer.inner, params, kept.x, kept.ctx.value)
        hand = problem.pullback(problem.leaves, dy)
        truth = jax.vjp(problem.forward, problem.leaves)[1](dy)[0]
        turn = Static((next(order), jax.tree.leaves(dy)[0].ndim))
        return layer.backward(params, kept, dy)[0], Step(layer.inner, params, kept, dy, hand, truth, turn)

    watched = map_leaves(model, Keep)
    _, cache = watched.forward(params, x, ctx)
    return watched.sweep(part, params, cache, dy)[1]


def _in_order(named: list[tuple[str, Step]]) -> list[tuple[str, Step]]:
    """The parts with every Stack's unfolded: its last block first."""
    ordered = []
    stack = lambda pair: (pair[0].split("/")[0], pair[1].depth)
    for (_, depth), group in itertools.groupby(named, key=stack):
        parts = list(group)
        if not depth:
            ordered += parts
        for i in reversed(range(depth)):
            block = [(f"{name}[{i}]", jax.tree.map(itemgetter(i), step)) for name, step in parts]
            ordered += _in_order(block)
    return ordered


def first_wrong_step(problem: Problem, accuracy: float, findings: list[Finding]) -> str:
    """The first wrong layer in backward order, and what is wrong in it; "" where there is a single layer or none.

    findings: gets a line where a part of the diagnosis raises.
    """
    if problem.layer is None:
        return ""
    params, x, ctx = problem.setting
    dy = problem.dy
    if problem.delta is not None:
        dy, right = problem.delta()
        if worst(dy, right) > accuracy:
            return f"the loss: its delta is off by {worst(dy, right):.1e} (dy at the output)"
    parts = steps(problem.layer, params, x, ctx, dy)
    if problem.delta is None and len(parts) == 1:
        return ""
    for name, step in parts:
        if wrong := step.wrong(accuracy):
            others = {other: step.kept.x for other, step in parts if other != name}
            return f"{name}: {_explained(step, wrong, accuracy, others, findings)}"
    return (
        "none: each layer is right on the delta it received, so the composition is wrong (a fan-out, an order, a name)"
    )


def _explained(
    step: Step, wrong: list[str], accuracy: float, others: dict[str, PyTree], findings: list[Finding]
) -> str:
    """What is wrong in one layer: each wrong leaf with its likeliest cause. others: the other layers' inputs."""
    problem = step.problem()
    hand, truth = jax.device_get((step.hand, step.truth))
    evidence = Evidence(Simulation(problem, others, findings), hand, truth, accuracy, Program(problem).gradients)
    leaf = lambda path: Leaf(path, problem.leaves[path].shape, "float64", "FAIL", np.nan, np.nan)
    causes = {path: explain(leaf(path), evidence).causes for path in wrong}
    return "; ".join(f"{path} ({cause[0] if cause else 'cause unknown'})" for path, cause in causes.items())
