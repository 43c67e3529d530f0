"""The Hessian by second-order backward passes against jax.hessian, and where its residual part is zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp.analysis import exact_hessian
from jaxbp.check import worst
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.slow]
DEEP = jaxbp.Chain((jaxbp.Dense(3), jaxbp.Tanh(), jaxbp.Dense(2), jaxbp.Sigmoid(), jaxbp.Dense(3)))
FLAT = jaxbp.Chain((jaxbp.Dense(3), jaxbp.Tanh(), jaxbp.Dense(2)))


def setting(model, y):
    """(params, batch), every example with a weight of its own."""
    x = jax.random.normal(jax.random.key(0), (5, 2), jnp.float64)
    params = model.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: p.astype(jnp.float64) + 0.1, params)
    return params, {"x": x, "y": y, "weight": jnp.arange(1.0, 6.0) / 10}


def test_both_passes_give_the_hessian_and_the_sources_of_one_its_two_parts():
    loss = SoftmaxCrossEntropy()
    params, batch = setting(DEEP, jnp.array([0, 1, 2, 2, 0]))
    theta, unravel = ravel_pytree(params)
    outputs = lambda theta: DEEP.forward(unravel(theta), batch["x"])[0]
    value = lambda y: loss.forward(y, batch["y"], batch["weight"])[0]

    @jax.jit
    def expected(theta):
        y = outputs(theta)
        j = jax.jacobian(outputs)(theta).reshape(y.size, -1)
        h = jax.hessian(value)(y).reshape(y.size, -1)
        return jax.hessian(lambda theta: value(outputs(theta)))(theta), j.T @ h @ j

    hessian, gauss_newton = expected(theta)
    parts = jax.jit(exact_hessian.stagewise(DEEP, loss))(params, batch)
    assert worst(jax.jit(exact_hessian.bishop(DEEP, loss))(params, batch), hessian) <= 1e-12
    assert worst(sum(parts), hessian) <= 1e-12
    assert worst(parts.gauss_newton, gauss_newton) <= 1e-12


def test_the_residual_part_is_sparse_in_blocks():
    """Zero within the last stage, between two hidden units, and between weights that share no unit."""
    params, batch = setting(FLAT, jnp.ones((5, 2)))
    numbers = jax.tree.map(np.asarray, ravel_pytree(params)[1](jnp.arange(17.0)))
    hidden, last = numbers["00_dense"], numbers["02_dense"]
    unit = np.full(17, -1)  # the hidden unit that a weight leads to or comes from
    for i in range(3):
        unit[[int(hidden["b"][i]), *hidden["w"][i].astype(int), *last["w"][:, i].astype(int)]] = i
    of_last = np.zeros(17, bool)
    of_last[np.concatenate([last["b"], last["w"].ravel()]).astype(int)] = True
    may_differ = (unit[:, None] == unit) & (unit >= 0) & ~(of_last[:, None] & of_last)
    residual = np.asarray(jax.jit(exact_hessian.stagewise(FLAT, SquaredError()))(params, batch).residual)
    np.testing.assert_array_equal(residual != 0, may_differ)


def test_gauss_newton_has_its_minimum_elsewhere_unless_the_residuals_vanish():
    """Both models of the loss have the gradient g, and curvatures G and G + S. Their minima are the steps p with
    G p = -g and (G + S) q = -g, so that G (p - q) = S q: the same only in the limit of residuals that are 0."""
    model = jaxbp.Chain((jaxbp.Dense(1), jaxbp.Tanh(), jaxbp.Dense(1)))
    x, ones = jnp.linspace(-1.5, 1.5, 5)[:, None], jnp.ones((1, 1))
    params = {"00_dense": {"b": 0.5 * ones[0], "w": ones}, "01_tanh": {}, "02_dense": {"b": 0 * ones[0], "w": ones}}
    residuals = jnp.array([[-2.0], [-0.5], [0.5], [-1.0], [2.0]])

    @jax.jit
    def of_size(size):
        """(G, S, p, q) where the outputs are off by `size` times the residuals."""
        off = jaxbp.batch(x, model.forward(params, x)[0] - size * residuals)
        g = ravel_pytree(jaxbp.value_and_grad(model, SquaredError())(params, off).grads)[0]
        parts = exact_hessian.stagewise(model, SquaredError())(params, off)
        steps = [-jnp.linalg.solve(matrix, g) for matrix in (parts.gauss_newton, sum(parts))]
        return *parts, *steps

    gauss_newton, residual, p, q = of_size(1.0)
    assert worst(gauss_newton @ (p - q), residual @ q) <= 1e-9
    assert jnp.linalg.norm(p - q) > 0.5 * jnp.linalg.norm(p)
    assert jnp.linalg.eigvalsh(gauss_newton)[0] > 0 > jnp.linalg.eigvalsh(gauss_newton + residual)[0]
    gaps = []
    for size in (1e-4, 1e-5):
        *_, p, q = of_size(size)
        gaps.append(float(jnp.linalg.norm(p - q) / jnp.linalg.norm(p)))
    np.testing.assert_allclose(gaps[0] / gaps[1], 10, rtol=0.1)


def test_where_residuals_are_large_the_hessian_has_a_better_condition_than_gauss_newton():
    """As Mizutani and Dreyfus say, and it is indefinite there. The Gauss-Newton matrix of 50 rows has its full rank."""
    parts_of = jax.jit(exact_hessian.stagewise(FLAT, SquaredError()))
    for seed in range(4):
        random = np.random.default_rng(seed)
        batch = {"x": random.normal(size=(50, 2)), "y": 3 * random.normal(size=(50, 2)), "weight": np.full(50, 0.02)}
        params = {
            name: {"b": random.normal(size=shape[0]), "w": random.normal(size=shape)}
            for name, shape in (("00_dense", (3, 2)), ("02_dense", (2, 3)))
        } | {"01_tanh": {}}
        parts = parts_of(params, batch)
        assert np.linalg.cond(sum(parts)) < np.linalg.cond(parts.gauss_newton) < 1e12
        assert np.linalg.eigvalsh(sum(parts))[0] < 0


@pytest.mark.parametrize("between", [jaxbp.LayerNorm(), jaxbp.Softmax()], ids=["LayerNorm", "Softmax"])
def test_other_models_are_refused(between):
    model = jaxbp.Chain((jaxbp.Dense(2), between, jaxbp.Dense(2)))
    params, batch = setting(model, jnp.ones((5, 2)))
    with pytest.raises(jaxbp.InputError, match=f"entry-wise .* got Dense, {type(between).__name__}, Dense"):
        exact_hessian.bishop(model, SquaredError())(params, batch)


def test_sequences_are_refused():
    with pytest.raises(jaxbp.InputError, match=r"exact Hessian: x must be \[N, I\], got \[5, 7, 2\]"):
        exact_hessian.stagewise(FLAT, SquaredError())({}, {"x": jnp.ones((5, 7, 2))})
