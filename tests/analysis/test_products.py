"""Products with the Jacobian, Hessian, Gauss-Newton and Fisher matrices against the dense ones, and what they tell."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp.analysis import matrices, products
from jaxbp.check import worst
from jaxbp.losses import AbsoluteError, Penalty, SoftmaxCrossEntropy
from tests.support.models import CURVED, curved_setting
from tests.support.programs import compiled

pytestmark = pytest.mark.usefixtures("float64")
ACCURACY = 1e-10
EACH = pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in CURVED if name != "mlp")]
)


def setting(name):
    return curved_setting(*CURVED[name])


def flat(name):
    """(flat params, outputs of flat params, value of outputs), by plain JAX on our forward."""
    model, loss, params, batch, ctx = setting(name)
    theta, unravel = ravel_pytree(params)
    outputs = lambda theta: model.forward(unravel(theta), batch["x"], ctx)[0]
    value = lambda y: loss.forward(y, batch["y"], batch["weight"])[0]
    return theta, outputs, value


def matrix(name, product):
    """The dense matrix of a product, one compiled program."""
    _, _, params, batch, ctx = setting(name)
    return jax.jit(lambda params: matrices.dense(lambda v: product(params, batch, v, ctx), params))(params)


@pytest.mark.slow
@EACH
def test_the_hessian(name):
    model, loss, *_ = setting(name)
    theta, outputs, value = flat(name)
    expected = jax.jit(jax.hessian(lambda theta: value(outputs(theta))))(theta)
    hessian = matrix(name, products.hessian(jaxbp.value_and_grad(model, loss)))
    assert worst(hessian, expected) <= ACCURACY
    assert worst(hessian, hessian.T) <= ACCURACY


@EACH
def test_gauss_newton_and_the_true_fisher(name):
    model, loss, *_ = setting(name)
    theta, outputs, value = flat(name)

    @jax.jit
    def expected(theta):
        y = outputs(theta)
        j = jax.jacobian(outputs)(theta).reshape(y.size, -1)
        h = jax.hessian(value)(y).reshape(y.size, -1)
        return j.T @ h @ j

    gauss_newton = matrix(name, products.gauss_newton(model, loss))
    assert worst(gauss_newton, expected(theta)) <= ACCURACY
    assert worst(matrix(name, products.fisher(model, loss, empirical=False)), gauss_newton) == 0


@EACH
def test_the_empirical_fisher_is_the_mean_of_outer_products(name):
    model, loss, _, batch, _ = setting(name)
    theta, outputs, _ = flat(name)

    @jax.jit
    def expected(theta):
        items = lambda theta: loss.items(outputs(theta), batch["y"])[0].ravel()
        g = jax.jacobian(items)(theta)
        return jnp.einsum("n,np,nq->pq", batch["weight"].ravel(), g, g)

    assert worst(matrix(name, products.fisher(model, loss, empirical=True)), expected(theta)) <= ACCURACY


@EACH
def test_the_jacobian_and_its_transpose(name):
    model, _, params, batch, ctx = setting(name)
    theta, outputs, _ = flat(name)
    jacobian = jax.jit(jax.jacobian(outputs))(theta)
    v = jax.tree.map(lambda p: jnp.sin(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
    forward = products.jacobian(model)(params, batch, v, ctx)
    assert worst(forward, jacobian @ ravel_pytree(v)[0]) <= ACCURACY
    u = jnp.cos(forward)
    back = products.jacobian_transpose(model)(params, batch, u, ctx)
    assert worst(ravel_pytree(back)[0], jnp.tensordot(u, jacobian, u.ndim)) <= ACCURACY


@pytest.mark.slow
def test_the_hessian_has_the_penalty():
    model, loss, params, batch, ctx = setting("relu")
    v = jax.tree.map(jnp.ones_like, params)
    product = lambda *penalties: products.hessian(jaxbp.value_and_grad(model, loss, penalties))(params, batch, v, ctx)
    difference = jax.tree.map(jnp.subtract, product(Penalty(l2=3.0)), product())
    names = {jaxbp.core.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(difference)}
    assert all(np.allclose(leaf, 3.0 if name.endswith("/w") else 0.0) for name, leaf in names.items())


@pytest.mark.slow
def test_gauss_newton_is_the_hessian_within_each_layer_of_a_piecewise_linear_net():
    """Squared error: the outputs are linear in the parameters of one layer, though not in those of two."""
    model, loss, params, *_ = setting("relu")
    h = matrix("relu", products.hessian(jaxbp.value_and_grad(model, loss)))
    g = matrix("relu", products.gauss_newton(model, loss))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in params.values()]
    ends = np.cumsum([0, *sizes])
    for a, b in pairwise(ends):
        assert b == a or worst(g[a:b, a:b], h[a:b, a:b]) <= ACCURACY
    assert worst(g, h) > 1e-3


def test_a_loss_without_a_likelihood_has_no_true_fisher():
    with pytest.raises(jaxbp.InputError, match=r"^fisher: AbsoluteError is not a negative log-likelihood"):
        products.fisher(CURVED["relu"][0], AbsoluteError(), empirical=False)
    with pytest.raises(jaxbp.InputError, match=r"^fisher: SoftmaxCrossEntropy is not a negative log-likelihood"):
        products.fisher(CURVED["relu"][0], jaxbp.SoftmaxCrossEntropy(z_loss=1e-3), empirical=False)


# --- matrices known by their products --------------------------------------------------------------------------------


@pytest.mark.slow
def test_trace_and_diagonal_are_unbiased():
    model, loss, params, batch, ctx = setting("mlp")
    product = lambda v: products.gauss_newton(model, loss)(params, batch, v, ctx)
    a = matrix("mlp", products.gauss_newton(model, loss))
    samples = 20_000
    spread = np.sqrt(2 * (np.sum(a**2) - np.sum(np.diag(a) ** 2)) / samples)
    trace = jax.jit(lambda key: matrices.trace(product, params, key, samples))(jax.random.key(0))
    assert abs(trace - jnp.trace(a)) <= 4 * spread
    diagonal = jax.jit(lambda key: matrices.diagonal(product, params, key, samples))(jax.random.key(1))
    spreads = np.sqrt((np.sum(a**2, 1) - np.diag(a) ** 2) / samples)
    assert np.all(np.abs(ravel_pytree(diagonal)[0] - np.diag(a)) <= 5 * spreads)
    scaled = lambda v: jax.tree.map(lambda p, v: p * v, params, v)  # a diagonal matrix: exact after one sample
    assert worst(matrices.diagonal(scaled, params, jax.random.key(2), 1), params) <= ACCURACY


@pytest.mark.slow
@pytest.mark.parametrize(("which", "order"), [("largest", -1), ("smallest", 1)])
def test_extreme_eigenvalues(which, order):
    model, loss, params, batch, ctx = setting("mlp")
    product = partial(products.hessian(jaxbp.value_and_grad(model, loss)), params, batch, ctx=ctx)
    a = matrix("mlp", products.hessian(jaxbp.value_and_grad(model, loss)))
    values, vectors = matrices.extreme_eigenvalues(product, params, 3, which)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(a)[::order][:3], rtol=1e-5)
    for value, vector in zip(values, vectors, strict=True):
        assert worst(product(vector), jax.tree.map(lambda p, value=value: value * p, vector)) <= 1e-3
        assert abs(jnp.linalg.norm(ravel_pytree(vector)[0]) - 1) <= 1e-6


@pytest.mark.parametrize(
    ("count", "which", "line"),
    [
        (0, "largest", "extreme_eigenvalues: count must be from 1 to 2, got 0"),
        (3, "largest", "extreme_eigenvalues: count must be from 1 to 2, got 3"),
        (1, "lagest", "unknown extreme_eigenvalues which 'lagest'; did you mean 'largest'"),
    ],
)
def test_impossible_eigenvalues_are_one_line(count, which, line):
    with pytest.raises(jaxbp.InputError, match=f"^{line}"):
        matrices.extreme_eigenvalues(lambda v: v, jnp.zeros(3), count, which)


def test_a_large_matrix_is_not_formed():
    with pytest.raises(jaxbp.InputError, match=r"^dense: a matrix of 30,000 rows is too large, at most 20,000"):
        matrices.dense(lambda v: v, {"w": jnp.zeros(30_000)})


def test_a_product_forms_no_matrix_of_parameters():
    """Temporary memory of a Hessian-vector product: a few gradients'."""
    model = jaxbp.Chain((jaxbp.Dense(64), jaxbp.Tanh(), jaxbp.Dense(10)))
    spec = jax.ShapeDtypeStruct((8, 100), jnp.float32)
    params = model.init(jax.random.key(0), spec)
    batch = {"x": jnp.ones((8, 100)), "y": jnp.zeros(8, jnp.int32), "weight": jnp.ones(8)}
    gradient = jaxbp.value_and_grad(model, SoftmaxCrossEntropy())
    temp = lambda f, *arguments: compiled(jax.jit(f).lower(*arguments)).memory_analysis().temp_size_in_bytes
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert temp(products.hessian(gradient), params, batch, params) <= temp(gradient, params, batch) + 2 * size
