"""Dropout (Srivastava et al. 2014), inverted: what is kept is scaled in training, so evaluation is the identity.

    forward   y = x m / (1 - rate),   m ~ Bernoulli(1 - rate)
    backward  dx = dy m / (1 - rate)

Keeps m (one byte an entry); nothing in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.errors import InputError
from jaxbp.letters import Letters


@dataclass(frozen=True)
class Dropout(Layer):
    """Drops each entry with probability `rate` in [0, 1): the fraction dropped, not the one kept.

    The mask is a function of the context's key alone. Raises InputError in training without a key.
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise InputError(f"Dropout: rate, the fraction dropped, must lie in [0, 1), got {self.rate}")

    @property
    def letters(self) -> Letters:
        return Letters("F", "F")

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array | None]:
        if not ctx.train:
            return x, None
        if ctx.key is None:
            raise InputError("Dropout: training needs a random key: pass Context(key=jax.random.key(seed))")
        mask = ctx.own_entries(partial(jax.random.bernoulli, ctx.key, 1 - self.rate), x.shape)
        return self._masked(mask, x), mask

    def backward(self, params: PyTree, mask: jax.Array | None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy if mask is None else self._masked(mask, dy), {}

    def _masked(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.where(mask, x / (1 - self.rate), 0)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Dropout(0.3), shaped(5, 3, 7)), Case(Dropout(0.0), shaped(5, 3), name="none_dropped")]
