"""Optimizers that find their own rates: Rprop for each weight, Prodigy for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp.optim import Optax

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]


@pytest.mark.parametrize("size", [1, 1000])
def test_rprop_asks_only_for_the_sign_of_a_gradient(size):
    """Riedmiller and Braun's steps: times 1.2 while the sign stays, times 0.5 and no move where it turns.

    Of gradients + + + - - - they are 0.1, 0.12, 0.144, 0, 0.072, 0.0864. optax takes each a step late, and drops the
    one that is due where the sign turns.
    """
    optimizer = Optax(0.1, name="rprop").build(7)
    state = optimizer.init(jnp.zeros(()))
    moves = []
    for sign in (1, 1, 1, -1, -1, -1, -1):
        move, state = optimizer.update(jnp.asarray(float(size * sign)), state, jnp.zeros(()))
        moves.append(move)
    np.testing.assert_allclose(moves, [0, -0.1, -0.12, 0, 0, 0.072, 0.0864], rtol=1e-12)


def test_prodigy_ends_alike_whatever_its_first_rate():
    """No rate is chosen: from first estimates of 1e-8 and of 1e-2 both runs reach the solution of least squares."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 3)), random.normal(size=(20, 1))
    gradient, batch = jaxbp.value_and_grad(jaxbp.Dense(1), jaxbp.SquaredError("half_sum")), jaxbp.batch(x, y)
    lowest = np.linalg.lstsq(np.c_[x, np.ones(20)], y)[1][0] / 40
    for first in ("1e-8", "1e-2"):
        optimizer = Optax(1.0, name="prodigy", arguments=(f"estim_lr0={first}",)).build(300)

        def step(carry, _, optimizer=optimizer):
            params, state = carry
            result = gradient(params, batch)
            updates, state = optimizer.update(result.grads, state, params, value=result.value)
            return (optax.apply_updates(params, updates), state), result.value

        params = {"w": jnp.zeros((1, 3)), "b": jnp.zeros(1)}
        values = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, None, 300)[1])(
            (params, optimizer.init(params))
        )
        assert values[1] > 1.01 * lowest
        np.testing.assert_allclose(values[-1], lowest, rtol=1e-9)
