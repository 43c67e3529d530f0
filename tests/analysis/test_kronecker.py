"""Roots, rows and diagonals of the curvature, and its Kronecker factors, against dense matrices."""

from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp.analysis import curvature, kronecker, products
from jaxbp.check import worst
from jaxbp.losses import AbsoluteError, SquaredError
from tests.support.models import FACTORED, curved_setting

pytestmark = pytest.mark.usefixtures("float64")
ACCURACY = 1e-10


def every_model(test):
    """All models but the one whose examples mix."""
    names = [name for name in FACTORED if name != "batch_norm"]
    return pytest.mark.slow(pytest.mark.parametrize("name", names)(test))


def setting(name):
    """(model, loss, params, batch, ctx)."""
    return curved_setting(*FACTORED[name])


@cache
def measured(name):
    """Everything of one model, by one compiled program, and the dense matrices."""
    model, loss, params, batch, ctx = setting(name)
    share = batch["weight"].reshape(len(batch["weight"]), -1).sum(1)
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def run(params):
        y, cache = model.forward(params, batch["x"], ctx)
        roots = curvature.exact(loss, y, batch)
        factors = {
            sharing: kronecker.estimated(model, params, cache, roots, share / share.sum(), sharing)
            for sharing in ("expand", "reduce")
        }
        bases = kronecker.eigen(factors["expand"])
        dense = lambda product: jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(jnp.eye(flat.size)).T
        return {
            "rows": curvature.rows(model, params, cache, roots),
            "factors": factors,
            "bases": bases,
            "corrected": kronecker.corrected(model, params, cache, roots, bases),
            "diagonals": [
                curvature.diagonal(model, loss, kind)(params, batch, ctx) for kind in ("gauss_newton", "empirical")
            ],
            "dense": [
                dense(lambda v: products.gauss_newton(model, loss)(params, batch, v, ctx)),
                dense(lambda v: products.fisher(model, loss, empirical=True)(params, batch, v, ctx)),
            ],
        }

    return run(params)


def blocks(name, matrix):
    """Each parameter's diagonal block, in the order of its leaves."""
    ends = np.cumsum([0, *(leaf.size for leaf in jax.tree.leaves(setting(name)[2]))])
    return [matrix[a:b, a:b] for a, b in pairwise(ends)]


is_pair = lambda node: isinstance(node, kronecker.Kronecker | kronecker.Eigen)
pairs = lambda tree: jax.tree.leaves(tree, is_leaf=is_pair)


@every_model
def test_rows_of_the_jacobian_make_the_gauss_newton_matrix(name):
    a = measured(name)["rows"]
    assert worst(a.T @ a, measured(name)["dense"][0]) <= ACCURACY


@every_model
def test_the_diagonals_are_those_of_the_dense_matrices(name):
    for diagonal, dense in zip(measured(name)["diagonals"], measured(name)["dense"], strict=True):
        assert worst(ravel_pytree(diagonal)[0], jnp.diag(dense)) <= ACCURACY


@every_model
def test_solving_in_the_eigenvectors_basis_is_solving_with_the_dense_product(name):
    params = setting(name)[2]
    v = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
    solved = jax.tree.map(lambda v, basis: basis.solve(v, 0.1), v, measured(name)["bases"])
    expand = pairs(measured(name)["factors"]["expand"])
    for pair, x, b in zip(expand, jax.tree.leaves(solved), jax.tree.leaves(v), strict=True):
        assert worst((pair.dense() + 0.1 * jnp.eye(b.size)) @ x.ravel(), b.ravel()) <= ACCURACY


@every_model
def test_the_corrected_eigenvalues_are_the_diagonal_in_that_basis(name):
    bases = pairs(measured(name)["corrected"])
    for basis, block in zip(bases, blocks(name, measured(name)["dense"][0]), strict=True):
        assert worst(basis.values.ravel(), jnp.diag(in_basis(basis, block))) <= ACCURACY
        assert abs(basis.values.sum() - jnp.trace(block)) <= ACCURACY * jnp.trace(block)


def in_basis(basis, block):
    """V^T block V, with the vectors of the basis as columns of V."""
    project = jax.vmap(lambda v: basis.project(v.reshape(basis.values.shape)).ravel())
    return project(project(block).T)


@pytest.mark.slow
def test_one_linear_layer_is_exact():
    """Squared error: activation and delta are independent, for the delta is the same for every example."""
    model, loss = jaxbp.Dense(3, bias=False), SquaredError()
    *_, batch, _ = setting("mlp")
    params = {"w": jnp.ones((3, 2))}
    batch = batch | {"y": jnp.zeros((5, 3))}
    share = batch["weight"] / batch["weight"].sum()
    y, cache = model.forward(params, batch["x"], jaxbp.Context())
    factors = kronecker.estimated(model, params, cache, curvature.exact(loss, y, batch), share, "expand")
    product = lambda v: ravel_pytree(products.gauss_newton(model, loss)(params, batch, {"w": v.reshape(3, 2)}))[0]
    assert worst(factors["w"].dense(), jax.vmap(product)(jnp.eye(6))) <= ACCURACY


@pytest.mark.slow
def test_last_layers_and_biases_are_exact():
    """A bias has activation one; by `reduce` a convolution's too."""
    exact = {("relu", "expand"): (0, 2, 3), ("conv", "reduce"): (0, 2)}
    for (name, sharing), leaves in exact.items():
        for leaf in leaves:
            pair = pairs(measured(name)["factors"][sharing])[leaf]
            assert worst(pair.dense(), blocks(name, measured(name)["dense"][0])[leaf]) <= ACCURACY


@pytest.mark.slow
def test_the_factors_of_one_example_are_exact():
    model, loss, params, batch, ctx = setting("mlp")
    example = jax.tree.map(lambda a: a[1:2], batch)
    y, cache = model.forward(params, example["x"], ctx)
    roots = curvature.empirical(loss, y, example)
    factors = kronecker.estimated(model, params, cache, roots, jnp.ones(1), "expand")
    flat, unravel = ravel_pytree(params)
    fisher = products.fisher(model, loss, empirical=True)
    dense = jax.vmap(lambda v: ravel_pytree(fisher(params, example, unravel(v)))[0])(jnp.eye(flat.size))
    for pair, block in zip(pairs(factors), blocks("mlp", dense), strict=True):
        assert worst(pair.dense(), block) <= ACCURACY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "relu", "binary"])
def test_drawn_targets_have_the_losses_curvature(name):
    model, loss, params, batch, ctx = setting(name)
    y = model.forward(params, batch["x"], ctx)[0]
    exact = curvature.exact(loss, y, batch).deltas
    hessian = jnp.einsum("kni,knj->nij", exact, exact)
    count = 20_000
    draw = lambda key: curvature.sampled(loss, y, batch, key).deltas[0]
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count))
    estimate = jnp.einsum("kni,knj->nij", drawn, drawn) / count
    assert jnp.abs(estimate - hessian).max() <= 0.05 * jnp.abs(hessian).max()


def test_bad_words_are_one_line():
    model, _, _, batch, _ = setting("relu")
    with pytest.raises(jaxbp.InputError, match=r"^unknown diagonal kind 'gaus_newton'; did you mean 'gauss_newton'"):
        curvature.diagonal(model, SquaredError(), "gaus_newton")
    with pytest.raises(jaxbp.InputError, match=r"^sampled: AbsoluteError is not a negative log-likelihood"):
        curvature.sampled(AbsoluteError(), batch["y"], batch, jax.random.key(0))
