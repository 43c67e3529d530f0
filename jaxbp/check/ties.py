"""The operations at a tie: which of them make autodiff wrong at a point, and what it gives with other slopes there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxbp.check.diagnosis.jaxprs import INLINED, RULED, bind, choose, evaluate, inner, place, scan, traced
from jaxbp.check.leaves import Arrays, Leaves
from jaxbp.check.problem import Problem
from jaxbp.core import PyTree

Tie = Callable[[JaxprEqn, list], bool]


def _equal(eqn: JaxprEqn, inputs: list) -> bool:
    return bool(np.any(np.equal(*inputs)))


def _repeated(eqn: JaxprEqn, inputs: list) -> bool:
    """Two equal values along the axes that the operation compares."""
    p = eqn.params
    axes = p.get("axes") or (p.get("dimension", p.get("axis", -1)),)
    a = np.moveaxis(np.asarray(inputs[0]), axes, range(-len(axes), 0))
    a = np.sort(a.reshape(*a.shape[: a.ndim - len(axes)], -1), -1)
    return bool(np.any(a[..., 1:] == a[..., :-1]))


def _at_zero(eqn: JaxprEqn, inputs: list) -> bool:
    return bool(np.any(np.asarray(inputs[0]) == 0))


def _at_bound(eqn: JaxprEqn, inputs: list) -> bool:
    low, a, high = inputs
    return bool(np.any(a == low) or np.any(a == high))


TIES: dict[str, Tie] = {
    "max": _equal,
    "min": _equal,
    "abs": _at_zero,
    "clamp": _at_bound,
    "reduce_max": _repeated,
    "reduce_min": _repeated,
    "cummax": _repeated,
    "cummin": _repeated,
    "sort": _repeated,
    "top_k": _repeated,
    "gt": _equal,
    "ge": _equal,
    "lt": _equal,
    "le": _equal,
}
COMPARED = {"max": 0, "min": 0, "abs": 0, "clamp": 1, "gt": 0, "ge": 0, "lt": 0, "le": 0}  # the input that is moved


def ties(problem: Problem) -> list[str]:
    """The operations of the forward pass that are at a tie or have no finite derivative, with their source lines."""
    singular: list[str] = []
    tied: list[str] = []

    def visit(eqn: JaxprEqn, inputs: list, path: str, within: JaxprEqn | None = None) -> list:
        if (held := inner(eqn, INLINED)) is not None:
            return evaluate(held, inputs, partial(visit, within=within or eqn), path)
        outputs = bind(eqn, *inputs)
        if not _finite_derivative(eqn, inputs):
            singular.append(f"{_named(eqn, within)} has no finite derivative")
        elif _tied(eqn, inputs):
            tied.append(f"{_named(eqn, within)} is at a tie")
        return outputs

    closed, _ = traced(problem.forward, problem.leaves)
    evaluate(closed, jax.tree.leaves(problem.leaves), visit)
    return list(dict.fromkeys(singular or tied))


def _named(eqn: JaxprEqn, within: JaxprEqn | None) -> str:
    """'sqrt' in 'norm' (model.py:12): an operation inside a function of a library has no line of its own."""
    name = place(eqn)
    if within is None or name.endswith(")"):
        return name
    line = place(within).partition(" ")[2]
    return f"{name} in '{within.params.get('name', within.primitive.name)}' {line}".rstrip()


def _tied(eqn: JaxprEqn, inputs: list) -> bool:
    """Whether an operation, or one in the body of a function with a rule of its own, is at its tie."""
    if (held := inner(eqn, RULED)) is None:
        tie = TIES.get(eqn.primitive.name)
        return tie is not None and tie(eqn, inputs)
    tied = []

    def visit(eqn: JaxprEqn, inputs: list, path: str) -> list:
        if (held := inner(eqn, INLINED | RULED)) is not None:
            return evaluate(held, inputs, visit, path)
        tied.append(_tied(eqn, inputs))
        return bind(eqn, *inputs)

    evaluate(held, inputs, visit)
    return any(tied)


def _finite_derivative(eqn: JaxprEqn, inputs: list) -> bool:
    """Whether the operation's tangents are finite."""
    floating = [i for i, a in enumerate(inputs) if jnp.issubdtype(jnp.result_type(a), jnp.floating)]
    if not floating:
        return True

    def moved(*values: jax.Array) -> list:
        places = dict(zip(floating, values, strict=True))
        outputs = bind(eqn, *(places.get(i, a) for i, a in enumerate(inputs)))
        return [out for out in outputs if jnp.issubdtype(out.dtype, jnp.floating)]

    values = [jnp.asarray(inputs[i]) for i in floating]
    ones = [jnp.ones_like(a) for a in values]
    try:
        tangents = jax.jvp(moved, values, ones)[1]
    except (NotImplementedError, TypeError):
        return True
    return all(bool(jnp.all(jnp.isfinite(t))) for t in tangents)


def other_slopes(problem: Problem) -> list[Arrays]:
    """Autodiff's derivative with the slope on one side of every tie, and on the other; none where it cannot be rerun.

    What is compared is moved by one unit in the last place, down or up: so relu'(0) is 0, and 1.
    """
    try:
        return [_with_ties_broken(problem, side) for side in (-1, 1)]
    except Exception:  # an operation that cannot be rerun
        return []


def _with_ties_broken(problem: Problem, side: int) -> Arrays:
    closed, structure = traced(problem.forward, problem.leaves)

    def visit(eqn: JaxprEqn, inputs: list, path: str) -> list:
        name = eqn.primitive.name
        if (held := inner(eqn, INLINED | RULED)) is not None:
            return evaluate(held, inputs, visit, path)
        if name == "scan":
            body = eqn.params["jaxpr"]
            step = lambda consts, carry, x, extra: (evaluate(body, [*consts, *carry, *x], visit, path), None)
            return scan(eqn, inputs, step, None)[0]
        if name == "cond":
            return choose(eqn, inputs, visit, path)
        moved = COMPARED.get(name)
        if moved is not None and jnp.issubdtype(jnp.result_type(inputs[moved]), jnp.floating):
            a = inputs[moved]
            ulp = jax.lax.stop_gradient(jnp.maximum(jnp.finfo(a.dtype).eps * jnp.abs(a), jnp.finfo(a.dtype).tiny))
            inputs = [*inputs[:moved], a + side * ulp, *inputs[moved + 1 :]]
        return bind(eqn, *inputs)

    def forward(leaves: Leaves) -> PyTree:
        return jax.tree.unflatten(structure, evaluate(closed, jax.tree.leaves(leaves), visit))

    return jax.device_get(jax.jit(lambda leaves: jax.vjp(forward, leaves)[1](problem.dy)[0])(problem.leaves))
