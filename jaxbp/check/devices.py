"""Mistakes that only several devices can make: a sum over a mesh axis taken twice, left out, or a mean in its place.

The hand-written derivative is repaired: run again with one sum over devices more, or one less. A repair that makes a
wrong leaf right names the mistake, the axis and the line. Where no repair fits, as in code that shardings alone spread
out, a leaf that is n times or one n-th of the right one is named, with n the devices of some mesh axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.sharding import AxisType, NamedSharding

from jaxbp.check.calls import operations
from jaxbp.check.diagnosis.jaxprs import INLINED, bind, evaluate, inner, place, traced
from jaxbp.check.diagnosis.patterns import ratio, same
from jaxbp.check.leaves import Gradient, Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.check.report import Cause, Explanation

MOST = 400  # repairs that are tried
Axes = dict[str, int]  # a mesh axis -> its devices
Value = Callable[[], jax.Array]


class Repair(NamedTuple):
    """What is wrong if this repair makes a leaf right."""

    text: str
    value: Value  # the operation's output, repaired
    more: bool  # by a sum that was not there


def by_devices(problem: Problem, hand: Measured, truth: Measured, close: float) -> dict[str, Explanation]:
    """The wrong leaves that a mistake in a sum over devices explains; none where nothing is spread over devices."""
    if not problem.traceable:
        return {}
    closed, _ = traced(lambda leaves: problem.pullback(leaves, problem.dy), problem.leaves)
    axes = _axes(closed)
    if not axes:
        return {}
    pairs = {k: (g, t) for k, g in hand.items() if g is not None and (t := truth[k]) is not None and g.shape == t.shape}
    wrong = {path: pair for path, pair in pairs.items() if not same(*pair, close)}
    causes = {path: Explanation(Cause.DEVICES, text) for path, text in _repaired(closed, problem, wrong, close).items()}
    for path in wrong.keys() - causes.keys():
        if text := _multiple(*wrong[path], axes, close):
            causes[path] = Explanation(Cause.DEVICES, text)
    return causes


def _axes(closed: ClosedJaxpr) -> Axes:
    """The mesh axes of more than one device that a program mentions."""
    axes: Axes = {}
    for eqn in operations(closed.jaxpr):
        for node in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda node: hasattr(node, "mesh")):
            mesh = getattr(node, "mesh", node)
            axes |= mesh.shape if isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh) else {}
    return {name: size for name, size in axes.items() if size > 1}


def _multiple(hand: np.ndarray, truth: np.ndarray, axes: Axes, close: float) -> str:
    """The axes whose devices are the factor between a leaf and the right one."""
    factor = ratio(hand, truth, close)
    for count in range(1, len(axes) + 1):
        for names in itertools.combinations(axes, count):
            n = math.prod(axes[name] for name in names)
            over = _over(names, n)
            if factor is not None and math.isclose(factor, n, rel_tol=1e-8):
                return f"every entry is {n} times the true one: the sum over {over} is taken twice"
            if factor is not None and math.isclose(factor, 1 / n, rel_tol=1e-8):
                return f"every entry is 1/{n} of the true one: a mean stands for the sum over {over}"
    return ""


def _over(names: tuple[str, ...], n: int) -> str:
    return f"the {n} devices of mesh ax{'is' if len(names) == 1 else 'es'} {' and '.join(map(repr, names))}"


@dataclass
class _Repairs:
    """The repairs of a program, numbered while JAX traces it; `number` is the one that is made."""

    number: jax.Array
    texts: list[tuple[bool, str]]  # whether the repair is a sum that was not there, and what is wrong

    def visit(self, eqn: JaxprEqn, inputs: list, path: str) -> list:
        """Outside of what runs on each device."""
        if (held := inner(eqn, INLINED)) is not None:
            return evaluate(held, inputs, self.visit, path)
        if eqn.primitive.name != "shard_map":
            return bind(eqn, *inputs)
        p = eqn.params
        body, manual = ClosedJaxpr(p["jaxpr"], ()), {name: p["mesh"].shape[name] for name in p["newly_manual_axes"]}

        def on_each(*inputs: Any) -> tuple:
            visit = lambda eqn, inputs, path: self.inside(eqn, inputs, path, manual)
            return tuple(evaluate(body, list(inputs), visit, path))

        specs = {"mesh": p["mesh"], "in_specs": p["in_specs"], "out_specs": p["out_specs"]}
        if AxisType.Explicit in p["mesh"].axis_types:
            places = [NamedSharding(p["mesh"], spec) for spec in p["in_specs"]]
            inputs = [jax.reshard(a, place) for a, place in zip(inputs, places, strict=True)]
        return list(jax.shard_map(on_each, axis_names=p["newly_manual_axes"], check_vma=False, **specs)(*inputs))

    def inside(self, eqn: JaxprEqn, inputs: list, path: str, axes: Axes) -> list:
        """On each device: every output, or what a repair makes of it."""
        if (held := inner(eqn, INLINED)) is not None:
            return evaluate(held, inputs, lambda eqn, inputs, path: self.inside(eqn, inputs, path, axes), path)
        outputs = _bound(eqn, inputs)
        for i, output in enumerate(outputs):
            if jnp.issubdtype(output.dtype, jnp.floating):
                for repair in _repairs(eqn, inputs[i : i + 1], output, axes):
                    if len(self.texts) < MOST:
                        outputs[i] = jnp.where(self.number == len(self.texts), repair.value(), outputs[i])
                        self.texts.append((repair.more, repair.text))
        return outputs


def _bound(eqn: JaxprEqn, inputs: list) -> list:
    """The outputs of an operation where JAX does not keep track of what varies over devices."""
    if eqn.primitive.name == "psum_invariant":
        return [jax.lax.psum(a, eqn.params["axes"]) for a in inputs]
    return inputs if eqn.primitive.name == "pvary" else bind(eqn, *inputs)


def _repairs(eqn: JaxprEqn, inputs: list, output: jax.Array, axes: Axes) -> Iterator[Repair]:
    """Of a sum over devices: none, and n times it. Of another operation: a sum or a mean over devices after it."""
    summed = tuple(eqn.params.get("axes", ())) if eqn.primitive.name.startswith("psum") else ()
    if summed:
        n = math.prod(axes.get(name, 1) for name in summed)
        over = f"{_over(summed, n)}, {place(eqn)}"
        yield Repair(f"the sum over {over}, is one too many: it is taken twice", lambda: inputs[0], False)
        yield Repair(f"a mean stands for the sum over {over}", lambda: n * output, False)
        return
    for name, n in axes.items():
        for word, total in (("sum", jax.lax.psum), ("mean", jax.lax.pmean)):
            text = f"the {word} over {_over((name,), n)} is left out after {place(eqn)}"
            yield Repair(text, partial(total, output, name), True)


def _repaired(closed: ClosedJaxpr, problem: Problem, wrong: dict[str, tuple], close: float) -> dict[str, str]:
    """The wrong leaves that a repair makes right, each with the repair that makes the most of them so."""
    texts: list[tuple[bool, str]] = []
    shape = jax.eval_shape(lambda leaves: problem.pullback(leaves, problem.dy), problem.leaves)

    def run(leaves: Leaves, number: jax.Array) -> Gradient:
        repairs = _Repairs(number, texts)
        texts.clear()
        outputs = evaluate(closed, jax.tree.leaves(leaves), repairs.visit)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    compiled = jax.jit(run)
    compiled(problem.leaves, -1)
    results = [(text, jax.device_get(compiled(problem.leaves, i))) for i, text in enumerate(texts)]
    right = {text: {k for k, (_, truth) in wrong.items() if same(result[k], truth, close)} for text, result in results}
    best = sorted(right, key=lambda text: (-len(right[text]), text[0]))
    return {path: text for path in wrong for _, text in [text for text in best if path in right[text]][:1]}
