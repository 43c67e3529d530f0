"""Gated products of the two halves of the features: SwiGLU and GEGLU. See jaxbp.ops.gated for the mathematics.

The gate comes first: x = (a, b), y = f(a) b, dx = (dy b f'(a), dy f(a)). Keeps x.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.ops.gated import Pair, geglu_backward, geglu_forward, swiglu_backward, swiglu_forward


@dataclass(frozen=True)
class SwiGLU(Layer):
    """[..., 2 F] -> [..., F]: silu of the first half times the second."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Pair]:
        return swiglu_forward(*jnp.split(x, 2, -1))

    def backward(self, params: PyTree, kept: Pair, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.concatenate(swiglu_backward(kept, dy), -1), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(SwiGLU(), shaped(5, 3, 14))]


@dataclass(frozen=True)
class GEGLU(Layer):
    """[..., 2 F] -> [..., F]: gelu of the first half, exact or by tanh, times the second."""

    approximate: bool = False

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, Pair]:
        a, b = jnp.split(x, 2, -1)
        return geglu_forward(a, b, self.approximate)

    def backward(self, params: PyTree, kept: Pair, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.concatenate(geglu_backward(self.approximate, kept, dy), -1), {}

    @classmethod
    def cases(cls) -> list[Case]:
        x = shaped(5, 3, 14)
        return [Case(GEGLU(), x), Case(GEGLU(approximate=True), x, name="tanh")]
