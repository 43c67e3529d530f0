"""Forward mode of a function with a jax.custom_jvp: its rule against differences, against its transpose, and linear.

JAX makes the reverse mode of such a rule by transposing it. What a transpose drops, a constant added to the tangent, is
wrong in forward mode alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from jaxbp.check.differences import along, slack
from jaxbp.check.leaves import Measured
from jaxbp.check.problem import Problem
from jaxbp.check.program import Program
from jaxbp.check.report import Finding
from jaxbp.check.truth import largest_entry, worst
from jaxbp.core import dot


def forward_mode(problem: Problem, run: Program, hand: Measured, accuracy: float, seed: int) -> Iterator[Finding]:
    """What is asked of a function with a custom_jvp. hand: the leaves that are right in reverse mode."""
    function, leaves = problem.decorated, problem.leaves
    forward_only = "custom_jvp_call" in problem.rules and "custom_vjp_call" not in problem.rules
    if function is None or not forward_only or len(hand) < len(leaves):
        return
    draw = np.random.default_rng((seed, 13))
    v, w = ({k: draw.normal(size=a.shape) for k, a in leaves.items()} for _ in range(2))
    mixed = {k: 2 * v[k] - 3 * w[k] for k in v}
    zero = {k: np.zeros_like(a) for k, a in v.items()}
    push = jax.jit(lambda leaves, v: jax.jvp(function, (leaves,), (v,))[1])
    forward, other, both, still = (jax.device_get(push(leaves, tangent)) for tangent in (v, w, mixed, zero))

    ruled = float(dot(problem.dy, forward))
    steps = along(run, v, [ruled])
    scale = max(abs(ruled), abs(steps.value), 1e-3 * largest_entry(problem.dy))
    right = bool(steps.distance(ruled) <= max(slack(steps, scale), accuracy * scale)) if steps.known else None
    yield Finding("forward mode", right, f"<dy, J v> = {ruled:.9g} by the rule and {steps.value:.9g} by differences")

    transposed = sum(float(np.vdot(g, v[path])) for path, g in hand.items() if g is not None)
    size = sum(float(np.linalg.norm(g) * np.linalg.norm(v[path])) for path, g in hand.items() if g is not None)
    gap = abs(ruled - transposed) / max(size, largest_entry(problem.dy))
    text = f"<dy, J v> = {ruled:.9g} by the rule and <J' dy, v> = {transposed:.9g}"
    yield Finding("transpose", bool(gap <= max(accuracy, 1e-11)), text)

    error = worst(both, jax.tree.map(lambda a, b: 2 * a - 3 * b, forward, other))
    passed = bool(error <= max(accuracy, 1e-11)) and not largest_entry(still) > 0
    text = f"largest error {error:.1e}, {largest_entry(still):.1e} for the tangent 0"
    yield Finding("linear in the tangent", passed, text)
