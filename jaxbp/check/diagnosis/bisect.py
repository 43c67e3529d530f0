"""The first wrong step of a model's backward pass: every layer is judged on the very delta that it received.

The deltas that reach a layer may be wrong already; whether the layer itself is right does not depend on that. So
the first wrong layer in backward order is found exactly, however deep the model and however many layers are wrong.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np

from jaxbp.check.diagnosis.explain import Evidence, explain
from jaxbp.check.problem import Problem, layer_problem
from jaxbp.check.program import Program
from jaxbp.check.report import Leaf
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
    hand: dict[str, jax.Array | None]
    truth: dict[str, jax.Array]
    order: Static

    @property
    def depth(self) -> int:
        """The blocks of the Stack that this part stands for; 0 outside a Stack."""
        delta = jax.tree.leaves(self.dy)[0]
        return len(delta) if delta.ndim > self.order.value[1] else 0

    def problem(self) -> Problem:
        """The layer by itself, on the delta that reached it."""
        found = layer_problem(self.layer, self.params, self.kept.x, self.kept.ctx.value)
        return replace(found, dy=self.dy)

    def wrong(self, accuracy: float) -> list[str]:
        """The leaves that the layer gets wrong, given the delta that reached it."""
        top = largest_entry(self.truth)
        right = lambda path: (
            self.hand[path] is not None and leaf_error(self.hand[path], self.truth[path], top) <= accuracy
        )
        return [path for path in self.truth if not right(path)]


def steps(model: Layer, params: PyTree, x: PyTree, ctx: Context, dy: PyTree) -> list[tuple[str, Step]]:
    """Every leaf layer's part by name, the last layer first; the blocks of a Stack one by one."""
    is_step = lambda node: isinstance(node, Step)
    found = jax.tree_util.tree_flatten_with_path(_parts(model, params, x, ctx, dy), is_leaf=is_step)[0]
    named = [(path_name(path), step) for path, step in found]
    return _in_order(sorted(named, key=lambda pair: pair[1].order.value))


@partial(jax.jit, static_argnums=0)
def _parts(model: Layer, params: PyTree, x: PyTree, ctx: Context, dy: PyTree) -> PyTree:
    order = itertools.count()

    def part(layer: Keep, params: PyTree, kept: Kept, dy: PyTree) -> tuple[PyTree, Step]:
        alone = layer_problem(layer.inner, params, kept.x, kept.ctx.value)
        hand, truth = alone.pullback(alone.leaves, dy), jax.vjp(alone.forward, alone.leaves)[1](dy)[0]
        when = Static((next(order), jax.tree.leaves(dy)[0].ndim))
        return layer.backward(params, kept, dy)[0], Step(layer.inner, params, kept, dy, hand, truth, when)

    watched = map_leaves(model, Keep)
    _, cache = watched.forward(params, x, ctx)
    return watched.sweep(part, params, cache, dy)[1]


def _in_order(named: list[tuple[str, Step]]) -> list[tuple[str, Step]]:
    """The parts with every Stack's unfolded: its last block first."""
    out = []
    for (_, depth), group in itertools.groupby(named, key=lambda pair: (pair[0].split("/")[0], pair[1].depth)):
        parts = list(group)
        block = lambda i, parts=parts: [(f"{name}[{i}]", jax.tree.map(lambda a: a[i], step)) for name, step in parts]
        out += [one for i in reversed(range(depth)) for one in _in_order(block(i))] if depth else parts
    return out


def first_wrong_step(problem: Problem, accuracy: float) -> str:
    """The first wrong layer in backward order, with what is wrong in it; "" if the model is a single layer."""
    params, x, ctx = problem.setting
    dy = problem.dy
    if problem.delta is not None:
        dy, right = problem.delta()
        if worst(dy, right) > accuracy:
            return f"the loss: its delta is off by {worst(dy, right):.1e} (dy at the output)"
    parts = steps(problem.layer, params, x, ctx, dy)
    if problem.delta is None and len(parts) == 1:
        return ""
    inputs = {name: step.kept.x for name, step in parts}
    for name, step in parts:
        if wrong := step.wrong(accuracy):
            return f"{name}: {_told(step, wrong, accuracy, {k: v for k, v in inputs.items() if k != name})}"
    return (
        "none: each layer is right on the delta it received, so the composition is wrong (a fan-out, an order, a name)"
    )


def _told(step: Step, wrong: list[str], accuracy: float, others: dict[str, PyTree]) -> str:
    """What is wrong in one layer: each wrong leaf with its likeliest cause."""
    problem = step.problem()
    hand, truth = jax.device_get((step.hand, step.truth))
    evidence = Evidence(problem, hand, truth, accuracy, Program(problem).gradients, others)
    leaf = lambda path: Leaf(path, problem.leaves[path].shape, "float64", "FAIL", np.nan, np.nan)
    causes = {path: explain(leaf(path), evidence).causes for path in wrong}
    return "; ".join(f"{path} ({found[0] if found else 'cause unknown'})" for path, found in causes.items())
