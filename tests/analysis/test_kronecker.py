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
each = pytest.mark.parametrize("name", [name for name in FACTORED if name != "batch_norm"])
EACH = lambda test: pytest.mark.slow(each(test))


setting = lambda name: curved_setting(*FACTORED[name])  # (model, loss, params, batch, ctx)


@cache
def measured(name):
    """Everything of one model, by one compiled program, and the dense matrices."""
    model, loss, params, batch, ctx = setting(name)
    share = batch["weight"].reshape(len(batch["weight"]), -1).sum(1)

    @jax.jit
    def run(params):
        y, cache = model.forward(params, batch["x"], ctx)
        of = curvature.exact(loss, y, batch)
        factors = {
            sharing: kronecker.factors(model, params, cache, of, share / share.sum(), sharing)
            for sharing in ("expand", "reduce")
        }
        bases = kronecker.eigen(factors["expand"])
        dense = lambda product: jax.vmap(lambda v: ravel_pytree(product(tree(v)))[0])(jnp.eye(flat.size)).T
        flat, tree = ravel_pytree(params)
        return {
            "rows": curvature.rows(model, params, cache, of),
            "factors": factors,
            "bases": bases,
            "corrected": kronecker.corrected(model, params, cache, of, bases),
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


@EACH
def test_rows_of_the_jacobian_make_the_gauss_newton_matrix(name):
    found = measured(name)
    a = found["rows"]
    assert worst(a.T @ a, found["dense"][0]) <= ACCURACY


@EACH
def test_the_diagonals_are_those_of_the_dense_matrices(name):
    found = measured(name)
    for got, dense in zip(found["diagonals"], found["dense"], strict=True):
        assert worst(ravel_pytree(got)[0], jnp.diag(dense)) <= ACCURACY


@EACH
def test_solving_in_the_eigenvectors_basis_is_solving_with_the_dense_product(name):
    found, params = measured(name), setting(name)[2]
    v = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)
    got = jax.tree.map(lambda basis, v: basis.solve(v, 0.1), found["bases"], v, is_leaf=is_pair)
    for pair, x, b in zip(pairs(found["factors"]["expand"]), jax.tree.leaves(got), jax.tree.leaves(v), strict=True):
        assert worst((pair.dense() + 0.1 * jnp.eye(b.size)) @ x.ravel(), b.ravel()) <= ACCURACY


@EACH
def test_the_corrected_eigenvalues_are_the_diagonal_in_that_basis(name):
    found = measured(name)
    for basis, block in zip(pairs(found["corrected"]), blocks(name, found["dense"][0]), strict=True):
        turned = jax.vmap(lambda v, basis=basis: basis.turned(v.reshape(basis.values.shape)).ravel())
        diagonal = jnp.diag(turned(turned(block).T))  # V^T block V
        assert worst(basis.values.ravel(), diagonal) <= ACCURACY
        assert abs(basis.values.sum() - jnp.trace(block)) <= ACCURACY * jnp.trace(block)


def test_one_linear_layer_is_exact():
    """Squared error: activation and delta are independent, for the delta is the same for every example."""
    model, loss = jaxbp.Dense(3, bias=False), SquaredError()
    *_, batch, _ = setting("mlp")
    params = {"w": jnp.ones((3, 2))}
    batch = batch | {"y": jnp.zeros((5, 3))}
    y, cache = model.forward(params, batch["x"], jaxbp.Context())
    found = kronecker.factors(
        model, params, cache, curvature.exact(loss, y, batch), batch["weight"] / batch["weight"].sum(), "expand"
    )["w"].dense()
    product = lambda v: ravel_pytree(products.gauss_newton(model, loss)(params, batch, {"w": v.reshape(3, 2)}))[0]
    assert worst(found, jax.vmap(product)(jnp.eye(6))) <= ACCURACY


@pytest.mark.slow
def test_last_layers_and_biases_are_exact():
    """A bias has activation one; by `reduce` a convolution's too. One example is one product."""
    expand, reduce = (measured("relu")["factors"]["expand"], measured("conv")["factors"]["reduce"])
    for name, at, tree in (("relu", (0, 2, 3), expand), ("conv", (0, 2), reduce)):
        for index in at:
            assert worst(pairs(tree)[index].dense(), blocks(name, measured(name)["dense"][0])[index]) <= ACCURACY
    model, loss, params, batch, ctx = setting("mlp")
    one = jax.tree.map(lambda a: a[1:2], batch)
    y, cache = model.forward(params, one["x"], ctx)
    found = kronecker.factors(model, params, cache, curvature.empirical(loss, y, one), jnp.ones(1), "expand")
    flat, tree = ravel_pytree(params)
    dense = jax.vmap(lambda v: ravel_pytree(products.fisher(model, loss, empirical=True)(params, one, tree(v)))[0])(
        jnp.eye(flat.size)
    )
    for pair, block in zip(pairs(found), blocks("mlp", dense), strict=True):
        assert worst(pair.dense(), block) <= ACCURACY


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "relu", "binary"])
def test_drawn_targets_have_the_losses_curvature(name):
    model, loss, params, batch, ctx = setting(name)
    y = model.forward(params, batch["x"], ctx)[0]
    of = curvature.exact(loss, y, batch).of
    want = jnp.einsum("kni,knj->nij", of, of)
    count = 20_000
    draw = lambda key: curvature.sampled(loss, y, batch, key).of[0]
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count))
    got = jnp.einsum("kni,knj->nij", drawn, drawn) / count
    assert jnp.abs(got - want).max() <= 0.05 * jnp.abs(want).max()


def test_bad_words_are_one_line():
    model, _, _, batch, _ = setting("relu")
    with pytest.raises(jaxbp.InputError, match=r"^unknown diagonal kind 'gaus_newton'; did you mean 'gauss_newton'"):
        curvature.diagonal(model, SquaredError(), "gaus_newton")
    with pytest.raises(jaxbp.InputError, match=r"^sampled: AbsoluteError is no negative log-likelihood"):
        curvature.sampled(AbsoluteError(), batch["y"], batch, jax.random.key(0))
