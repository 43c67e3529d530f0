"""The operations that make autodiff wrong at a point: those at their tie, and those whose derivative is not finite."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxbp.check.diagnosis.jaxprs import INLINED, bind, evaluate, inner, place, traced
from jaxbp.check.problem import Problem

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
RULES = {"custom_jvp_call": "call_jaxpr"}


def ties(problem: Problem) -> list[str]:
    """The operations of the forward pass that are at a tie or have no finite derivative, with their source lines."""
    singular: list[str] = []
    tied: list[str] = []

    def visit(eqn: JaxprEqn, inputs: list, path: str) -> list:
        if (held := inner(eqn, INLINED)) is not None:
            return evaluate(held, inputs, visit, path)
        outputs = bind(eqn, *inputs)
        if not _finite_derivative(eqn, inputs, outputs):
            singular.append(f"{place(eqn)} has no finite derivative")
        elif _tied(eqn, inputs):
            tied.append(f"{place(eqn)} is at a tie")
        return outputs

    closed, _ = traced(problem.forward, problem.leaves)
    evaluate(closed, jax.tree.leaves(problem.leaves), visit)
    return list(dict.fromkeys(singular or tied))


def _tied(eqn: JaxprEqn, inputs: list) -> bool:
    """Whether an operation, or one in the body of a function with a rule of its own, is at its tie."""
    if (held := inner(eqn, RULES)) is None:
        tie = TIES.get(eqn.primitive.name)
        return tie is not None and tie(eqn, inputs)
    tied = []

    def visit(eqn: JaxprEqn, inputs: list, path: str) -> list:
        if (held := inner(eqn, INLINED | RULES)) is not None:
            return evaluate(held, inputs, visit, path)
        tied.append(_tied(eqn, inputs))
        return bind(eqn, *inputs)

    evaluate(held, inputs, visit)
    return any(tied)


def _finite_derivative(eqn: JaxprEqn, inputs: list, outputs: list) -> bool:
    """Whether the operation's tangents are finite where its inputs and outputs are."""
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
