"""Natural gradient does not depend on how the weights are written down."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Context, Layer
from jaxbp.check import worst
from jaxbp.losses import BinaryCrossEntropy
from jaxbp.optim import Objective, natural_gradient


@dataclass(frozen=True)
class Powers(Layer):
    """y = x exp(v)^T: a dense layer whose parameters are the logarithms of its weights."""

    def forward(self, params, x, ctx=Context()):
        return x @ jnp.exp(params["v"]).T, x

    def backward(self, params, x, dy):
        w = jnp.exp(params["v"])
        return dy @ w, {"v": w * (dy.T @ x)}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_natural_step_is_the_same_in_weights_and_in_their_logarithms():
    """To first order: exp(v + e dv) = w + e w dv + O(e^2) with w dv = dw. Steps down the gradient are not."""
    draw = np.random.default_rng(0)
    w = jnp.asarray(draw.uniform(0.2, 2.0, (2, 3)))
    batch = jaxbp.batch(jnp.asarray(draw.normal(size=(9, 3))), jnp.asarray(draw.integers(0, 2, (9, 2)) * 1.0))

    @partial(jax.jit, static_argnums=0)
    def steps(model, params):
        """(natural step, gradient) of the only leaf."""
        objective = Objective(model, BinaryCrossEntropy())
        grads = objective.gradient()(params, batch, Context()).grads
        updates, _ = natural_gradient(objective, 1.0, 1e-13).update(grads, (), params, batch=batch, ctx=Context())
        return jax.tree.leaves(updates)[0], jax.tree.leaves(grads)[0]

    dw, gradient_w = steps(jaxbp.Dense(2, bias=False), {"w": w})
    dv, gradient_v = steps(Powers(), {"v": jnp.log(w)})
    assert worst(w * dv, dw) <= 1e-9
    assert worst(w * gradient_v, gradient_w) > 0.1
    w, dw, dv = map(np.asarray, (w, dw, dv))
    gaps = [np.abs(np.exp(np.log(w) + e * dv) - (w + e * dw)).max() for e in (1e-3, 1e-4)]
    np.testing.assert_allclose(gaps[0] / gaps[1], 100, rtol=0.1)
