"""Conjugates too many or too few: of the whole derivative, and in one operation's reverse rule.

JAX's derivative by z = x + iy is dL/dx - i dL/dy, so that a holomorphic f has the rule ct f'(z), without a conjugate.
PyTorch's is dL/dx + i dL/dy, and ct conj(f'(z)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxbp.check.diagnosis.jaxprs import INLINED, bind, evaluate, inner, place, traced
from jaxbp.check.leaves import Leaves, Measured
from jaxbp.check.problem import Problem
from jaxbp.core import PyTree

JAX = "JAX's derivative by x + iy is dL/dx - i dL/dy"
WORDS = (
    "the factors are conjugate in the derivative of",
    "the derivative is conjugate, of",
    "the delta is conjugate, at",
)


def conjugates(problem: Problem, truth: Measured) -> list[tuple[str, Measured]]:
    """(words, what it gives) for every conjugate too many or too few; none where there are no complex numbers."""
    outputs = problem.dy if isinstance(problem.dy, dict) else {}
    if not any(path.endswith(".imag") for path in (*problem.leaves, *outputs)):
        return []
    itself = (f"it is the conjugate of the true one: {JAX}", _conjugate(truth))
    if not problem.differentiable:
        return [itself]
    if not outputs:
        return [itself, *_by_operation(problem)]
    back = jax.jit(lambda dy: jax.vjp(problem.forward, problem.leaves)[1](dy)[0])
    other = jax.device_get(back(_conjugate(outputs)))
    convention = (f"it is right in the other convention: {JAX}, not dL/dx + i dL/dy", _conjugate(other))
    return [convention, itself, ("it is that of the conjugate dy", other), *_by_operation(problem)]


def _conjugate(parts: Any) -> Any:
    """A dict of leaves with the imaginary parts negated."""
    return {path: -a if path.endswith(".imag") and a is not None else a for path, a in parts.items()}


def _by_operation(problem: Problem) -> list[tuple[str, Measured]]:
    """The derivative with one operation's rule conjugate, for every operation on complex numbers, in one program."""
    closed, _ = traced(problem.forward, problem.leaves)
    words: list[str] = []

    def gradient(alive: jax.Array, leaves: Leaves, dy: PyTree) -> Leaves:
        words.clear()

        def visit(eqn: JaxprEqn, inputs: list, path: str) -> list:
            if (held := inner(eqn, INLINED)) is not None:
                return evaluate(held, inputs, visit, path)
            if len(eqn.outvars) != 1 or not any(map(jnp.iscomplexobj, inputs)):
                return bind(eqn, *inputs)
            words.extend(f"{text} {place(eqn)}" for text in WORDS)
            return [_altered(eqn, alive - len(words) + len(WORDS))(*inputs)]

        run = lambda leaves: evaluate(closed, jax.tree.leaves(leaves), visit)
        return jax.vjp(run, leaves)[1](jax.tree.leaves(dy))[0]

    jax.eval_shape(gradient, jnp.int32(0), problem.leaves, problem.dy)
    every = jax.jit(lambda alive: jax.lax.map(lambda i: gradient(i, problem.leaves, problem.dy), alive))
    results = jax.device_get(every(jnp.arange(len(words))))
    return [(text, {path: a[i] for path, a in results.items()}) for i, text in enumerate(words)]


def _altered(eqn: JaxprEqn, variant: jax.Array) -> Callable[..., jax.Array]:
    """The operation; backward, its rule is conjugate in the way that `variant` numbers, or right for another number."""

    @jax.custom_vjp
    def run(variant: jax.Array, *inputs: jax.Array) -> jax.Array:
        return bind(eqn, *inputs)[0]

    def backward(kept: tuple, ct: jax.Array) -> tuple:
        variant, inputs = kept
        rule = lambda inputs, ct: jax.vjp(lambda *inputs: bind(eqn, *inputs)[0], *inputs)[1](ct)
        right = rule(inputs, ct)
        ways = (rule(map(_conj, inputs), ct), map(_conj, right), rule(inputs, _conj(ct)))
        for number, way in enumerate(ways):
            right = [_chosen(variant == number, w, g) for w, g in zip(way, right, strict=True)]
        return None, *right

    run.defvjp(lambda variant, *inputs: (bind(eqn, *inputs)[0], (variant, inputs)), backward)
    return lambda *inputs: run(variant, *inputs)


def _conj(a: Any) -> Any:
    return jnp.conj(a) if jnp.iscomplexobj(a) else a


def _chosen(on: jax.Array, wrong: Any, right: Any) -> Any:
    return None if right.dtype == jax.dtypes.float0 else jnp.where(on, wrong, right)
