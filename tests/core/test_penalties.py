"""Penalties: their values beside NumPy, their gradients beside jax.grad, the parameters that they choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Chain, Dense, InputError, Penalty, SoftmaxCrossEntropy, Tanh, shaped, value_and_grad
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from tests.core.test_losses import close, quick

pytestmark = pytest.mark.usefixtures("strict")
MODEL = Chain((Dense(3), Tanh(), Dense(2)))


@pytest.fixture(scope="module")
def params():
    """Of both signs, and none 0: jax.grad of |w| is 1 there."""
    expected, random = jax.eval_shape(MODEL.init, jax.random.key(0), shaped(1, 4)), np.random.default_rng(0)
    return jax.tree.map(lambda p: random.normal(size=p.shape), expected)


PENALTIES = [
    Penalty(),
    Penalty(l2=0.3),
    Penalty(l1=0.2),
    Penalty(0.3, 0.2),
    Penalty(0.3, 0.2, "00_dense/.*"),
    Penalty(0.3, 0.2, ".*"),
]


@functools.partial(jax.jit, static_argnums=0, compiler_options=quick)
def of_penalty(penalty, params):
    return penalty.value(params), penalty.gradient(params), jax.grad(penalty.value)(params)


@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_penalty(params, penalty):
    paths = [(layer, leaf) for layer in ("00_dense", "02_dense") for leaf in "wb"]
    chosen = [path for path in paths if penalty.paths in (".*", f".*/{path[1]}", f"{path[0]}/.*")]
    term = lambda w: penalty.l2 / 2 * np.sum(w**2) + penalty.l1 * np.sum(np.abs(w))
    value, gradient, oracle = of_penalty(penalty, params)
    close(value, sum(term(params[layer][leaf]) for layer, leaf in chosen))
    assert worst(gradient, oracle) <= FLOAT64_TOLERANCE
    moved = [(layer, leaf) for layer, leaf in paths if np.any(gradient[layer][leaf])]
    assert moved == (chosen if penalty.l1 or penalty.l2 else [])


def test_l1_at_zero_pulls_nowhere():
    gradient = Penalty(l1=0.2, paths="w").gradient({"w": np.array([-3.0, 0.0, 1e-9])})
    np.testing.assert_array_equal(gradient["w"], [-0.2, 0, 0.2])


@pytest.mark.parametrize("paths", ["00_dense", "dense/w", ".*/weight"])
def test_a_pattern_that_matches_nothing(params, paths):
    """The whole path must match."""
    with pytest.raises(InputError, match="matches no parameter") as error:
        Penalty(l2=1.0, paths=paths).value(params)
    assert f"'{paths}'" in str(error.value)
    for name in ("00_dense/b", "00_dense/w", "02_dense/b", "02_dense/w"):
        assert name in str(error.value)


def test_penalties_through_value_and_grad(params):
    """Several at once; the value and the gradient are those of the whole objective."""
    loss = SoftmaxCrossEntropy()
    penalties = [Penalty(l2=0.3), Penalty(l1=0.2, paths=".*/b")]
    x = np.random.default_rng(0).normal(size=(5, 4))
    batch = {"x": x, "y": np.arange(5) % 2, "weight": np.arange(5) / 10}

    def objective(p):
        value = value_and_grad(MODEL, loss)(p, batch).value
        l2 = sum(jnp.sum(p[name]["w"] ** 2) for name in ("00_dense", "02_dense"))
        l1 = sum(jnp.sum(jnp.abs(p[name]["b"])) for name in ("00_dense", "02_dense"))
        return value + 0.15 * l2 + 0.2 * l1

    @functools.partial(jax.jit, compiler_options=quick)
    def both(p):
        return value_and_grad(MODEL, loss, penalties)(p, batch), *jax.value_and_grad(objective)(p)

    result, value, grads = both(params)
    close(result.value, value)
    assert worst(result.grads, grads) <= FLOAT64_TOLERANCE
