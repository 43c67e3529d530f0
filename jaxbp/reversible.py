"""Reversible blocks: the activations of a whole stack are computed again from its output, so none are kept.

    forward   y1 = x1 + f(x2)      y2 = x2 + g(y1)
    inverse   x2 = y2 - g(y1)      x1 = y1 - f(x2)
    backward  d  = dy1 + g' dy2    dx2 = dy2 + f' d    dx1 = d

(Gomez et al. 2017, arXiv 1707.04585, algorithm 1.) A block's inverse meets g(y1) and f(x2) in the order in which its
backward needs their caches. Keeps the output of the last block: memory does not grow with the depth. The inverse is
exact to rounding. Costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.compose import Chain, Combinator
from jaxbp.core import Case, Context, Layer, PyTree, inside, register, require, shaped
from jaxbp.errors import InputError
from jaxbp.layers import Dense, Dropout, Tanh

Halves = tuple[jax.Array, jax.Array]


@partial(register, data_fields=["y", "ctx", "next_states"], meta_fields=[])
@dataclass(frozen=True)
class Output:
    """All that the blocks keep: the last output, what their forward needs to run again, and their next states."""

    y: jax.Array
    ctx: Context  # with a key and a state for each block
    next_states: PyTree


@dataclass(frozen=True)
class Reversible(Combinator):
    """`depth` reversible blocks: [..., 2 D] -> the same shape, with layers f and g from [..., D] to the same shape.

    The first D entries are x1. depth is at least 1. `init` raises InputError for an odd last axis.
    """

    f: Layer
    g: Layer
    depth: int

    def __post_init__(self) -> None:
        require(self, "depth", self.depth >= 1, "at least 1")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        half = self.half(spec)
        block = lambda keys: {"f": self.f.init(keys[0], half), "g": self.g.init(keys[1], half)}
        return jax.vmap(block)(jax.random.split(key, (self.depth, 2)))

    def init_state(self, spec: PyTree) -> PyTree:
        half = self.half(spec)
        states = {"f": self.f.init_state(half), "g": self.g.init_state(half)}
        return jax.tree.map(lambda s: jnp.stack([s] * self.depth), states)

    def half(self, spec: PyTree) -> jax.ShapeDtypeStruct:
        """What f and g get. Raises InputError for an odd last axis."""
        if spec.shape[-1] % 2:
            raise InputError(f"Reversible: the last axis must be even, got {spec.shape[-1]}")
        return shaped(*spec.shape[:-1], spec.shape[-1] // 2, dtype=spec.dtype)

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Output]:
        keys = None if ctx.key is None else jax.random.split(ctx.key, self.depth)
        blocks = replace(ctx, key=keys)

        def step(x: Halves, block: tuple) -> tuple[Halves, PyTree]:
            params, key, state = block
            x1, x2 = x
            f, f_cache = self.run("f", params, x2, replace(ctx, key=key, state=state))
            y1 = x1 + f
            g, g_cache = self.run("g", params, y1, replace(ctx, key=key, state=state))
            after = None if state is None else self.after(state, {"f": f_cache, "g": g_cache})
            return (y1, x2 + g), after

        halves, next_states = jax.lax.scan(step, split(x), (params, keys, ctx.state), self.depth)
        y = jnp.concatenate(halves, -1)
        return y, Output(y, blocks, next_states)

    def run(self, name: str, params: PyTree, x: jax.Array, ctx: Context) -> tuple[jax.Array, PyTree]:
        """The forward pass of f or g."""
        with inside(name, input=x, parameters=params[name]):
            layer = self.f if name == "f" else self.g
            return layer.forward(params[name], x, ctx.child(0 if name == "f" else 1, name))

    def after(self, state: PyTree, cache: PyTree) -> PyTree:
        """One block's next state."""
        return {"f": self.f.next_state(state["f"], cache["f"]), "g": self.g.next_state(state["g"], cache["g"])}

    def next_state(self, state: PyTree, cache: Output) -> PyTree:
        return cache.next_states

    def sweep(self, rule: Callable, params: PyTree, cache: Output, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        def step(carry: tuple[Halves, Halves], block: tuple) -> tuple[tuple[Halves, Halves], PyTree]:
            params, key, state = block
            (y1, y2), (dy1, dy2) = carry
            ctx = replace(cache.ctx, key=key, state=state)
            g, g_cache = self.run("g", params, y1, ctx)
            dg, g_outputs = self.g.sweep(rule, params["g"], g_cache, dy2)
            x2, dx1 = y2 - g, dy1 + dg
            f, f_cache = self.run("f", params, x2, ctx)
            df, f_outputs = self.f.sweep(rule, params["f"], f_cache, dx1)
            return ((y1 - f, x2), (dx1, dy2 + df)), {"f": f_outputs, "g": g_outputs}

        blocks = (params, cache.ctx.key, cache.ctx.state)
        (_, dx), outputs = jax.lax.scan(step, (split(cache.y), split(dy)), blocks, self.depth, reverse=True)
        return jnp.concatenate(dx, -1), outputs

    def map(self, f: Callable[[Layer], Layer]) -> Reversible:
        return replace(self, f=f(self.f), g=f(self.g))

    @classmethod
    def cases(cls) -> list[Case]:
        block = Chain((Dense(3), Tanh(), Dropout(0.3)))
        return [Case(Reversible(block, Dense(3), 4), shaped(5, 6))]


def split(x: jax.Array) -> Halves:
    """[..., 2 D] -> two arrays [..., D]."""
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
