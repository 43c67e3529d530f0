# mypy: disallow-any-generics, disallow-untyped-calls, disallow-untyped-decorators, warn-return-any
"""What a user writes: test_types.py runs it, and has mypy (--strict) and pyright read it."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxbp
from jaxbp.config import Config, load
from jaxbp.core import PyTree


@dataclass(frozen=True)
class Scale(jaxbp.Layer):
    """y = factor x.   dx = factor dy."""

    factor: float = 2.0

    def forward(self, params: PyTree, x: jax.Array, ctx: jaxbp.Context) -> tuple[jax.Array, None]:
        return self.factor * x, None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return self.factor * dy, {}


def train(steps: int) -> jax.Array:
    """The loss of a small model after some steps of gradient descent."""
    model = jaxbp.Chain((jaxbp.Dense(4), jaxbp.Tanh(), Scale(0.5), jaxbp.Dense(1)))
    x = jnp.linspace(-1, 1, 5)[:, None]
    batch = {"x": x, "y": x**2, "weight": jnp.full(5, 1 / 5)}
    params = model.init(jax.random.key(0), x)
    gradient = jax.jit(jaxbp.value_and_grad(model, jaxbp.SquaredError()))
    result: jaxbp.Result = gradient(params, batch)
    for _ in range(steps):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, result.grads)
        result = gradient(params, batch)
    return result.value


def built(file: Path) -> tuple[Config, jaxbp.Layer]:
    """A config and its model."""
    config = load(file)
    return config, config.model.build()
