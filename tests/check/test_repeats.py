"""The same call twice: refused where it gives other numbers, said where it does so within rounding."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import check_function, check_gradient, check_layer
from jaxbp.check.calls import repeated
from jaxbp.errors import InputError
from tests.support.marks import first_is_fast

X, W = np.eye(5, 3), np.ones(3)
quadratic = lambda w, x: jnp.sum((x @ w) ** 2)
slope = lambda w, x: 2 * x.T @ (x @ w)


def noisy(noise):
    """The loss with noise() added."""
    return lambda w, x: quadratic(w, x) + noise()


def calls():
    """One more at every call."""
    return lambda count=itertools.count(): float(next(count))


def callback(noise):
    """noise() as an operation of a compiled program."""
    return lambda: jax.pure_callback(lambda: np.float64(noise()), jax.ShapeDtypeStruct((), np.float64))


generator = np.random.default_rng(7)
LOSSES = {
    "noise in NumPy code": lambda w, x: float(np.sum((np.asarray(x) @ np.asarray(w) + generator.normal()) ** 2)),
    "little noise in NumPy code": lambda w, x: np.sum(np.asarray(w) ** 2) + 1e-6 * generator.normal(),
    "noise in the trace": noisy(generator.normal),
    "an array of noise in the trace": lambda w, x: jnp.sum(w * generator.normal(size=3)),
    "a count of calls": noisy(calls()),
    "a key of its own": noisy(lambda: jax.random.normal(jax.random.key(generator.integers(1000)))),
    "noise in a callback": noisy(callback(generator.normal)),
    "dropout by NumPy": lambda w, x: np.sum(np.asarray(w) * (generator.random(3) < 0.5)),
}


@pytest.mark.parametrize("name", first_is_fast(LOSSES))
def test_a_loss_that_does_not_repeat_itself_is_refused(name):
    with pytest.raises(InputError, match="does not repeat itself") as caught:
        check_gradient(slope, LOSSES[name], W, X)
    assert len(str(caught.value).splitlines()) == 1
    assert "key or a seed" in str(caught.value)


@pytest.mark.parametrize("draw", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_gradient_that_does_not_repeat_itself_is_refused(draw):
    def gradient(w, x):
        return draw(slope(w, x)) * generator.normal()

    with pytest.raises(InputError, match="gradient does not repeat itself"):
        check_gradient(gradient, quadratic, W, X)


def test_a_rule_that_does_not_repeat_itself_is_refused():
    square = jax.custom_vjp(lambda a: a * a)
    square.defvjp(lambda a: (a * a, a), lambda a, dy: (2 * a * dy * generator.normal(),))
    with pytest.raises(InputError, match=r"the derivative of .* does not repeat itself"):
        check_function(square, W)


@pytest.mark.slow
def test_a_layer_that_does_not_repeat_itself_is_refused():
    class Noisy(jaxbp.Dense):
        def forward(self, params, x, ctx):
            y, cache = super().forward(params, x, ctx)
            return y + generator.normal(), cache

    with pytest.raises(InputError, match="does not repeat itself"):
        check_layer(Noisy(2), jaxbp.shaped(3, 2))


@pytest.mark.slow
def test_noise_of_a_key_or_a_seed_repeats_itself():
    noise = lambda key: jax.random.normal(key, (3,))
    keyed = lambda w, key: jnp.sum(w * noise(key))
    for key in (jax.random.key(3), jax.random.PRNGKey(3)):
        assert check_gradient(lambda w, key: noise(key), keyed, W, key).passed
    seeded = lambda w, seed: np.sum(np.asarray(w) * np.random.default_rng(int(seed)).normal(size=3))
    assert check_gradient(lambda w, seed: np.random.default_rng(int(seed)).normal(size=3), seeded, W, 5).passed


def test_a_loss_that_repeats_itself_within_rounding_is_said_to():
    order = itertools.cycle([[0, 1, 2], [2, 1, 0]])
    terms = np.array([1.0, 1e-16, 1e-16])
    unsteady = lambda w: float(np.sum(np.asarray(w) ** 2) * sum(terms[i] for i in next(order)))
    report = check_gradient(lambda w: 2 * np.asarray(w), unsteady, W)
    assert report.passed
    assert "the function repeats itself within rounding, to 3.0e-16, and not to the bit" in str(report)


def test_what_is_not_finite_repeats_itself():
    assert repeated([np.array([np.nan, np.inf])] * 3, "it") is None
    with pytest.raises(InputError, match="gave inf and -inf"):
        repeated([np.array([np.inf]), np.array([-np.inf])], "it")
    with pytest.raises(InputError, match=r"the shapes \(2,\) and \(3,\)"):
        repeated([np.ones(2), np.ones(3)], "it")
