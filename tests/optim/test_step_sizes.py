"""How far Adam and batch Manhattan move each weight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbp.optim import Adam, BatchManhattan

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
START = np.array([0.5, -0.3, 4.0, -2.0, 0.9])


def after(optimizer, gradient, steps):
    """[steps, 5]: the weights after each step from START, in one program."""

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(gradient(w), state, w, value=jnp.zeros(()))
        w = optax.apply_updates(w, updates)
        return (w, state), w

    w = jnp.asarray(START)
    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps)[1])((w, optimizer.init(w)))


def test_a_hundred_steps_of_adam_are_those_of_its_paper():
    """Kingma and Ba 2015, algorithm 1."""
    gradient = lambda w: 2 * (w - 1)
    w, m, v = START, 0, 0
    expected = []
    for t in range(1, 101):
        g = gradient(w)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        w = w - 0.1 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        expected.append(w)
    np.testing.assert_allclose(after(Adam(0.1).build(100), gradient, 100), expected, rtol=1e-10)


@pytest.mark.parametrize("config", [Adam(0.1), BatchManhattan(0.1, momentum=0.0)], ids=["adam", "manhattan"])
def test_a_constant_gradient_moves_every_entry_by_the_rate(config):
    """Adam's corrections of its means make even the first step rate * sign g."""
    constant = np.array([3.0, -0.1, 100.0, -5.0, 0.2])
    weights = after(config.build(3), lambda w: constant, 3)
    moves = np.diff(weights, axis=0, prepend=[START])
    np.testing.assert_allclose(moves, np.broadcast_to(-0.1 * np.sign(constant), moves.shape), rtol=1e-6)
