"""Steady states as layers, whose backward is the adjoint relaxation: recurrent backpropagation, implicit gradients.

    forward    s = f(s, x; w)                              relaxed from zeros; y is a part of s
    backward   l = ds + (df/ds)^T l                        relaxed from zeros by the same relaxer      (Almeida, Pineda)
               dx = (df/dx)^T l,   dw = (df/dw)^T l        once l has settled

(Almeida 1987; Pineda 1987, Physical Review Letters 59, 2229.) It is the implicit function theorem: with J = df/ds,
ds/dw = (1 - J)^-1 df/dw, and l = (1 - J)^-T ds. Nothing of the way to the steady state is kept, only the last step. A
state or an adjoint that does not settle is nan, so that a training step stops before it changes a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, require, shaped
from jaxbp.credit.relax import Relaxer, Settled
from jaxbp.errors import unknown
from jaxbp.inits import Initializer, weight_and_bias
from jaxbp.layers.cells import FROM_OUTPUT

States = tuple[jax.Array, ...]


class Steady(Layer):
    """The base: a subclass has a `relaxer`, and writes `start`, `step` and `step_backward`."""

    relaxer: Relaxer

    def start(self, x: jax.Array) -> States:
        """The states of zeros; the last one is the output."""
        raise NotImplementedError

    def step(self, params: PyTree, states: States, x: jax.Array, ctx: Context) -> tuple[States, PyTree]:
        """-> (f(s, x), what its backward needs)."""
        raise NotImplementedError

    def step_backward(self, params: PyTree, cache: PyTree, ds: States) -> tuple[States, jax.Array, PyTree]:
        """-> (ds, dx, grads) of one step: linear in ds."""
        raise NotImplementedError

    def motion(self, params: PyTree, x: jax.Array, ctx: Context) -> Callable[[States], States]:
        """s -> f(s, x)."""
        return lambda states: self.step(params, states, x, ctx)[0]

    def settle(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> Settled:
        """The steady state, and how well it has settled."""
        return self.relaxer.settle(self.motion(params, x, ctx), self.start(x))

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        states, cache = self.step(params, self.settle(params, x, ctx).or_nan(), x, ctx)
        return states[-1], cache

    def adjoint(self, params: PyTree, cache: PyTree, dy: jax.Array, start: States) -> Settled:
        """The adjoint state l of a delta dy of the output."""

        def step(adjoint: States) -> States:
            back, _, _ = self.step_backward(params, cache, adjoint)
            return (*back[:-1], back[-1] + dy)

        return self.relaxer.settle(step, start)

    def backward(self, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        start = jax.tree.map(jnp.zeros_like, self.states_of(cache))
        adjoint = self.adjoint(params, cache, dy, start).or_nan()
        _, dx, grads = self.step_backward(params, cache, adjoint)
        return dx, grads

    def states_of(self, cache: PyTree) -> States:
        """The steady state that a forward pass left."""
        raise NotImplementedError


@dataclass(frozen=True)
class SteadyState(Steady):
    """s = body((s, x)), s [N, features]: any layer of two inputs, such as a Graph with inputs ("state", "x").

    features: at least 1. relaxer: of state and adjoint. Exact up to the relaxer's tolerance.
    """

    body: Layer
    features: int
    relaxer: Relaxer = Relaxer()

    def __post_init__(self) -> None:
        require(self, "features", self.features >= 1, "at least 1")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.body.init(key, self._inputs(spec))

    def init_state(self, spec: PyTree) -> PyTree:
        return self.body.init_state(self._inputs(spec))

    def _inputs(self, spec: PyTree) -> tuple[PyTree, PyTree]:
        return shaped(spec.shape[0], self.features, dtype=spec.dtype), spec

    def start(self, x: jax.Array) -> States:
        return (jnp.zeros((len(x), self.features), x.dtype),)

    def step(self, params: PyTree, states: States, x: jax.Array, ctx: Context) -> tuple[States, PyTree]:
        y, cache = self.body.forward(params, (states[0], x), ctx)
        return (y,), (states, cache)

    def step_backward(self, params: PyTree, cache: PyTree, ds: States) -> tuple[States, jax.Array, PyTree]:
        (before, dx), grads = self.body.backward(params, cache[1], ds[0])
        return (before,), dx, grads

    def states_of(self, cache: PyTree) -> States:
        return cache[0]


@dataclass(frozen=True)
class FeedbackNet(Steady):
    """A layered net whose layers also hear the layer above: [N, I] -> [N, features[-1]].

        s_k = f(s_k-1 W_k^T + b_k + feedback s_k+1 W_k+1),   s_0 = x,   s_L = s_L-1 W_L^T + b_L      k = 1 ... L - 1

    With feedback 0 it is the perceptron of the same sizes. Otherwise its steady state is a minimum of the energy

        E = sum_k feedback^(k - L) sum (R(s_k) - s_k (W_k s_k-1 + b_k)),   R' the inverse of f      (Xie & Seung 2003)

    features: of every layer, the output's last. activation: of the hidden ones, "sigmoid" or "tanh". params
    {"00": {"w", "b"}, ...}.
    """

    features: tuple[int, ...]
    feedback: float = 1.0
    activation: str = "sigmoid"
    relaxer: Relaxer = Relaxer(rate=0.5)
    w_init: str | Initializer = "glorot_uniform"

    def __post_init__(self) -> None:
        require(self, "features", len(self.features) >= 1 and min(self.features) >= 1, "sizes of at least 1")
        require(self, "feedback", self.feedback >= 0, "at least 0")
        if self.activation not in FROM_OUTPUT:
            raise unknown("FeedbackNet activation", self.activation, FROM_OUTPUT)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        sizes = (spec.shape[-1], *self.features)
        draw = lambda k: weight_and_bias(jax.random.fold_in(key, k), (sizes[k + 1], sizes[k]), self.w_init, "zeros")
        return {f"{k:02d}": draw(k) for k in range(len(self.features))}

    def start(self, x: jax.Array) -> States:
        return tuple(jnp.zeros((len(x), width), x.dtype) for width in self.features)

    def step(self, params: PyTree, states: States, x: jax.Array, ctx: Context) -> tuple[States, PyTree]:
        after = self.motion(params, x, ctx)(states)
        return after, (x, states, after)

    def motion(self, params: PyTree, x: jax.Array, ctx: Context) -> Callable[[States], States]:
        f, _ = FROM_OUTPUT[self.activation]
        layers = [params[name] for name in sorted(params)]
        weights = [layer["w"].astype(x.dtype) for layer in layers]
        from_below = lambda k, below: jnp.einsum("ni,oi->no", below, weights[k]) + layers[k]["b"].astype(x.dtype)
        from_x = from_below(0, x)  # the same in every step

        def step(states: States) -> States:
            z = [from_x, *(from_below(k + 1, below) for k, below in enumerate(states[:-1]))]
            above = [jnp.einsum("no,oi->ni", s, w) for s, w in zip(states[1:], weights[1:], strict=True)]
            hidden = [f(own + self.feedback * heard) for own, heard in zip(z, above, strict=False)]
            return (*hidden, z[-1])

        return step

    def step_backward(self, params: PyTree, cache: PyTree, ds: States) -> tuple[States, jax.Array, PyTree]:
        x, states, after = cache
        _, slope = FROM_OUTPUT[self.activation]
        layers = [params[name] for name in sorted(params)]
        deltas = (*(d * slope(s) for d, s in zip(ds[:-1], after[:-1], strict=True)), ds[-1])
        below = [
            jnp.einsum("no,oi->ni", d, layer["w"].astype(d.dtype)) for d, layer in zip(deltas, layers, strict=True)
        ]
        before = [*below[1:], jnp.zeros_like(deltas[-1])]
        grads = {}
        for k, (name, layer) in enumerate(zip(sorted(params), layers, strict=True)):
            dw = jnp.einsum("no,ni->oi", deltas[k], (x, *states)[k])
            if k:
                dw += self.feedback * jnp.einsum("no,ni->oi", states[k], deltas[k - 1])
                before[k] += self.feedback * jnp.einsum("ni,oi->no", deltas[k - 1], layer["w"].astype(x.dtype))
            dtype = layer["w"].dtype
            grads[name] = {"w": dw.astype(dtype), "b": jnp.sum(deltas[k], 0).astype(dtype)}
        return tuple(before), below[0], grads

    def states_of(self, cache: PyTree) -> States:
        return cache[2]
