"""What is compared is computed once: XLA alone computes it in several fusions, and the copies round otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check.program import UNOPTIMISED
from jaxbp.check.stages import Staged

ARRAYS = np.random.default_rng(0).normal(size=(3, 4, 2, 2, 3))


def numbers(a, b, c):
    """A product of matrices and a product of numbers, added."""
    return jnp.einsum("...ij,...kj->...ik", a, b) + a.mean(-1, keepdims=True) * c[..., :1]


USES = [
    lambda z: jnp.take_along_axis(z, jnp.argmax(z, -1)[..., None], -1) == z.max(-1, keepdims=True),
    lambda z: jnp.sum((z == z.max(-1, keepdims=True)) * 1.0, axis=0),
    lambda z: jnp.sum(jax.grad(lambda z: jnp.sum(z.max(-1)))(z), axis=-1),
    lambda z: jnp.sum(z >= jnp.sort(z, -1)[..., -2:-1], axis=-1),
    lambda z: jnp.sum(z == jax.lax.cummax(z, axis=3), axis=-1),
]


def chosen(a, b, c):
    """The largest by argmax, equality, autodiff, order and cumulative maximum: one program computes them together."""
    gradient = jax.grad(lambda b: jnp.sum(numbers(a, b, c).max(-1) ** 2))(b)
    return gradient, [use(numbers(a, b, c)) for use in USES]


def in_a_loop(a, b, c):
    """The comparison is in the body of a loop, which cannot be cut."""
    return jax.lax.map(lambda rows: jnp.sum(rows == rows.max(-1, keepdims=True), -1), numbers(a, b, c))


@pytest.mark.slow
@pytest.mark.parametrize("function", [chosen, in_a_loop])
def test_what_is_compared_is_computed_once(function):
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in ARRAYS]
        with jax.disable_jit():
            expected = function(*arrays)
        result = Staged(function, UNOPTIMISED)(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), result, expected)


def test_a_program_without_such_a_comparison_stays_whole():
    staged = Staged(lambda z: jnp.where(z > 0, z, 0) @ jnp.ones(3), UNOPTIMISED)
    staged(ARRAYS[0])
    assert isinstance(staged._run, type(jax.jit(lambda: 0)))
