"""The differential equation as a layer, beyond its conformance: the adjoint that keeps y alone, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Context, Dense, InputError, NeuralODE, Tanh
from jaxbp.check import worst

FIELD = Chain(Dense(3), Tanh())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NeuralODE(FIELD, steps=0), "NeuralODE: steps must be at least 1, got 0"),
        (lambda: NeuralODE(FIELD, steps=1.5), "NeuralODE: steps must be a whole number, got 1.5"),
        (lambda: NeuralODE(FIELD, time=float("nan")), "NeuralODE: time must be finite, got nan"),
        (
            lambda: NeuralODE(jaxbp.Identity()).init(jax.random.key(0), (jnp.ones(3), jnp.ones(3))),
            "NeuralODE: x must be one array, got a tuple",
        ),
        (lambda: NeuralODE(FIELD, adjoint="continous"), "unknown NeuralODE adjoint 'continous'; did you mean 'contin"),
        (lambda: NeuralODE(Dense(2)).init(jax.random.key(0), jnp.ones((5, 3))), r"makes \[5, 2\] of \[5, 3\]"),
        (lambda: NeuralODE(jaxbp.BatchNorm()).init(jax.random.key(0), jnp.ones((5, 3))), "the field has a state"),
    ],
    ids=["steps", "whole", "time", "tuple", "adjoint", "shape", "state"],
)
def test_what_cannot_be_used_is_refused_in_one_line(make, text):
    with pytest.raises(InputError, match=text) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_continuous_adjoint_keeps_the_output_alone_and_serves_every_rule(strict):
    layer = NeuralODE(FIELD, 0.5, 6, "continuous")
    draw = np.random.default_rng(0)
    params = {"00_dense": {"w": draw.normal(size=(3, 3)), "b": draw.normal(size=3)}, "01_tanh": {}}
    x, dy = draw.normal(size=(2, 5, 3))
    _, cache = layer.forward(params, x, Context())
    assert [kept.shape for kept in jax.tree.leaves(cache)] == [(5, 3)]
    swept = lambda name: lambda: layer.sweep(getattr(jaxbp.rules, name), params, cache, dy)[1]
    gradient, examples = jax.jit(lambda: (swept("gradient")(), swept("example_gradients")()))()
    assert worst(jax.tree.map(lambda g: g.sum(0), examples), gradient) < 1e-12
    deltas = jax.eval_shape(swept("delta"))
    assert deltas["01_tanh"].shape == (4 * 6, 5, 3)  # a delta for every evaluation of the field
