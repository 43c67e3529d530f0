"""A differential equation as a layer: dz/dt = f(z), z(0) = x, y = z(time), by the classical Runge-Kutta rule (1901).

    forward     k1 = f(z)   k2 = f(z + h/2 k1)   k3 = f(z + h/2 k2)   k4 = f(z + h k3)          h = time / steps
                z <- z + h/6 (k1 + 2 k2 + 2 k3 + k4)
    discrete    the transpose of that step. With a = dL/dz after it and d_i = (df/dz)^T dk_i at the point of k_i:
                dk4 = h/6 a   dk3 = h/3 a + h d4   dk2 = h/3 a + h/2 d3   dk1 = h/6 a + h/2 d2
                a <- a + d1 + d2 + d3 + d4
    continuous  the adjoint equation da/dt = -(df/dz)^T a, solved from the end to the start by the same rule, and z
                with it. The gradient is the integral of (df/dw)^T a: its four points have the weights of the rule

(Chen et al. 2018, arXiv 1806.07366; the adjoint equation is Pontryagin's.) Discrete is the exact gradient of what
forward computes, and keeps the state before every step. Continuous keeps y alone. Its gradient is off by O(h^4), and
where the equation forgets its start it cannot be solved backward at all. Both run f once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from numbers import Integral
from operator import itemgetter
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.compose import Chain, Combinator
from jaxbp.core import Case, Context, Layer, PyTree, add, output_spec, register, require, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.layers import Dense, Tanh


@partial(register, data_fields=["y", "states", "ctx"], meta_fields=[])
@dataclass(frozen=True)
class Path:
    """What is kept of the solution, and what the field needs to run again."""

    y: jax.Array
    states: jax.Array | None  # before every step, [steps, N, ...]; None: they are solved for again
    ctx: Context


@dataclass(frozen=True)
class NeuralODE(Combinator):
    """x [N, ...] -> y of the same shape: the state that dz/dt = field(z) reaches from x after `time`.

    field: a layer whose output is like its input. All its evaluations see the same Context: dropout has one mask for
    the whole path. time: finite; it may be negative. steps: at least 1. For a field that depends on the time, make the
    time an entry of z with the slope 1. init raises InputError for an x that is not one array, and for a field with a
    state, or with an output of another shape.
    """

    field: Layer
    time: float = 1.0
    steps: int = 8
    adjoint: Literal["discrete", "continuous"] = "discrete"

    def __post_init__(self) -> None:
        require(self, "steps", isinstance(self.steps, Integral), "a whole number")
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "time", math.isfinite(self.time), "finite")
        if self.adjoint not in ("discrete", "continuous"):
            raise unknown("NeuralODE adjoint", self.adjoint, ("discrete", "continuous"))

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        slope = output_spec(self.field, spec)
        for what, tree in (("x", spec), ("the field's output", slope)):
            if not jax.tree_util.all_leaves([tree]):
                raise InputError(f"NeuralODE: {what} must be one array, got a {type(tree).__name__}")
        if slope.shape != spec.shape:
            raise InputError(f"NeuralODE: the field makes {list(slope.shape)} of {list(spec.shape)}, and must keep it")
        if jax.tree.leaves(jax.eval_shape(lambda: self.init_state(spec))):
            raise InputError("NeuralODE: the field has a state (running statistics), and no evaluation owns it")
        return self.field.init(key, spec)

    def init_state(self, spec: PyTree) -> PyTree:
        return self.field.init_state(spec)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Path]:
        y, states = jax.lax.scan(lambda z, _: (self.step(params, z, ctx)[0], z), x, length=self.steps)
        return y, Path(y, states if self.adjoint == "discrete" else None, ctx)

    def step(self, params: PyTree, z: jax.Array, ctx: Context) -> tuple[jax.Array, list[PyTree]]:
        """-> (the state after a step from z, the caches of k1 to k4)."""
        h = self.time / self.steps
        k1, cache1 = self.field.forward(params, z, ctx)
        k2, cache2 = self.field.forward(params, z + h / 2 * k1, ctx)
        k3, cache3 = self.field.forward(params, z + h / 2 * k2, ctx)
        k4, cache4 = self.field.forward(params, z + h * k3, ctx)
        return z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), [cache1, cache2, cache3, cache4]

    def sweep(self, rule: Callable, params: PyTree, cache: Path, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        """Outputs of a rule that does not merge them have an axis for the evaluations in front, [4 steps, ...]."""
        merge = getattr(rule, "merge", None)
        field = partial(self.field.sweep, rule, params)
        back = self.discrete if self.adjoint == "discrete" else self.continuous

        def step(carry: tuple, start: jax.Array | None) -> tuple[tuple, PyTree]:
            (z, a), total = carry
            z, a, outputs = back(field, params, cache.ctx, z if start is None else start, a)
            if merge is add:  # no step's gradients outlive it
                return ((z, a), reduce(add, outputs, total)), None
            return ((z, a), total), reduce(merge, outputs) if merge else jax.tree.map(lambda *o: jnp.stack(o), *outputs)

        total = None
        if merge is add:
            output = jax.eval_shape(lambda: back(field, params, cache.ctx, cache.y, dy)[2][0])
            total = jax.tree.map(lambda o: jnp.zeros(o.shape, o.dtype), output)
        ((_, dx), total), outputs = jax.lax.scan(step, ((cache.y, dy), total), cache.states, self.steps, reverse=True)
        if merge is add:
            return dx, total
        if merge:
            return dx, reduce(merge, [jax.tree.map(itemgetter(i), outputs) for i in range(self.steps)])
        return dx, jax.tree.map(lambda o: o.reshape(-1, *o.shape[2:]), outputs)

    def discrete(
        self, field: Callable, params: PyTree, ctx: Context, z: jax.Array, a: jax.Array
    ) -> tuple[jax.Array, jax.Array, tuple]:
        """Of z before a step and a after it -> (z and a before it, the rule's outputs at k1 to k4)."""
        h = self.time / self.steps
        _, (cache1, cache2, cache3, cache4) = self.step(params, z, ctx)
        d4, output4 = field(cache4, h / 6 * a)
        d3, output3 = field(cache3, h / 3 * a + h * d4)
        d2, output2 = field(cache2, h / 3 * a + h / 2 * d3)
        d1, output1 = field(cache1, h / 6 * a + h / 2 * d2)
        return z, a + d1 + d2 + d3 + d4, (output1, output2, output3, output4)

    def continuous(
        self, field: Callable, params: PyTree, ctx: Context, z: jax.Array, a: jax.Array
    ) -> tuple[jax.Array, jax.Array, tuple]:
        """The same of z and a after a step, which both go back by -h."""
        h = self.time / self.steps
        k1, cache1 = self.field.forward(params, z, ctx)
        d1, output1 = field(cache1, h / 6 * a)  # h/6 (df/dz)^T a
        k2, cache2 = self.field.forward(params, z - h / 2 * k1, ctx)
        d2, output2 = field(cache2, h / 3 * (a + 3 * d1))
        k3, cache3 = self.field.forward(params, z - h / 2 * k2, ctx)
        d3, output3 = field(cache3, h / 3 * (a + 3 / 2 * d2))
        k4, cache4 = self.field.forward(params, z - h * k3, ctx)
        d4, output4 = field(cache4, h / 6 * (a + 3 * d3))
        return z - h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), a + d1 + d2 + d3 + d4, (output1, output2, output3, output4)

    def map(self, f: Callable[[Layer], Layer]) -> NeuralODE:
        return replace(self, field=f(self.field))

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(NeuralODE(Chain((Dense(3), Tanh())), 0.7, 3), shaped(5, 3))]
