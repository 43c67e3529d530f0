"""The variable rate against Hagan's three rules, written out for a parabola."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.losses import SquaredError
from jaxbp.optim import Objective, VariableRate
from tests.support.optim import updates


def rules(rate, momentum, steps, tolerance=0.04, cut=0.7, growth=1.05):
    """(w before each step, rate after each) for the loss w^2 / 2 from w = 1, by the text of chapter 12."""
    w, last, gamma = 1.0, 0.0, momentum
    places, rates = [], []
    for _ in range(steps):
        places.append(w)
        step = gamma * last - (1 - gamma) * rate * w
        before, after = w**2 / 2, (w + step) ** 2 / 2
        if after > (1 + tolerance) * before:
            rate, gamma, last = cut * rate, 0.0, 0.0
        else:
            rate, gamma, last = (growth * rate if after < before else rate), momentum, step
            w = w + step
        rates.append(rate)
    return places, rates


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("rate", "momentum", "refused"), [(2.01, 0.0, 0), (6.0, 0.5, 6)])
def test_steps_are_taken_and_refused_by_hagans_rules(rate, momentum, refused):
    """At 2.01 each step raises the loss by 2 %, which is allowed. At 6 four are refused, and the fifth has no
    momentum."""
    steps = 9
    objective = Objective(jaxbp.Dense(1, bias=False), SquaredError("half_sum"))
    batch = jaxbp.batch(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    optimizer = VariableRate(rate, momentum).build(steps, objective)
    _, pace, values = updates(optimizer, objective, {"w": jnp.ones((1, 1))}, batch, steps)
    places, rates = rules(rate, momentum, steps)
    np.testing.assert_allclose(values[:-1], np.square(places) / 2, rtol=1e-12)
    np.testing.assert_allclose(pace.rate, rates[-1], rtol=1e-12)
    assert np.sum(np.diff(places) == 0) == refused


class Level(NamedTuple):
    """An objective that has one value after every step."""

    after: float

    def value(self, params, batch, ctx):
        return jnp.asarray(self.after)


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [(-2.0, -2.01, True), (-2.0, -1.95, True), (-2.0, -1.9, False), (2.0, 2.05, True), (2.0, 2.1, False)],
)
def test_the_bound_is_a_part_of_the_losses_size_whatever_its_sign(before, after, taken):
    optimizer = VariableRate().build(1, Level(after))
    params = {"w": np.ones(1, np.float32)}
    step, _ = optimizer.update(params, optimizer.init(params), params, value=jnp.asarray(before), batch={}, ctx=None)
    assert bool(step["w"][0] != 0) == taken
