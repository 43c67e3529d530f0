"""Parameters in any tree of mappings: the gradient comes back in the tree that came."""

from collections import OrderedDict, defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.losses import Penalty, SquaredError

MODEL = jaxbp.Chain((jaxbp.Dense(5), jaxbp.Stack(jaxbp.Chain((jaxbp.Dense(5), jaxbp.Tanh())), 2), jaxbp.Dense(3)))
X = jax.random.normal(jax.random.key(1), (2, 4))
PARAMS = MODEL.init(jax.random.key(0), X)
BATCH = {"x": X, "y": jnp.ones((2, 3)), "weight": jnp.ones(2)}


def ordered(tree):
    """OrderedDicts, whose leaves come in the order of insertion: here backwards."""
    return (
        OrderedDict((name, ordered(tree[name])) for name in sorted(tree, reverse=True))
        if isinstance(tree, dict)
        else tree
    )


def with_defaults(tree):
    return defaultdict(dict, {name: with_defaults(tree[name]) for name in tree}) if isinstance(tree, dict) else tree


def frozen(tree):
    return pytest.importorskip("flax.core").freeze(tree)


def flax_state(tree):
    nnx = pytest.importorskip("flax.nnx")
    return nnx.State(jax.tree.map(nnx.Param, tree))


def only_outside(tree):
    return OrderedDict(tree)


def arrays(tree):
    """{path: array}, whatever the mappings are."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value"): leaf for path, leaf in leaves
    }


TREES = [ordered, with_defaults, only_outside, frozen, flax_state]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("in_tree", TREES)
def test_value_and_grad(in_tree, compiled):
    gradient = jaxbp.value_and_grad(MODEL, SquaredError(), [Penalty(l2=0.1)])
    params = in_tree(PARAMS)
    grads = (jax.jit(gradient) if compiled else gradient)(params, BATCH).grads
    assert type(grads) is type(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    truth = arrays(gradient(PARAMS, BATCH).grads)
    assert arrays(grads).keys() == truth.keys()
    for path, leaf in arrays(grads).items():
        np.testing.assert_allclose(leaf, truth[path], rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("in_tree", TREES)
def test_as_function(in_tree):
    function = jaxbp.as_function(MODEL)
    objective = lambda params, x: jnp.sum(jnp.square(function(params, x)))
    params = in_tree(PARAMS)
    grads, dx = jax.jit(jax.grad(objective, (0, 1)))(params, X)
    truth, dx_truth = jax.grad(objective, (0, 1))(PARAMS, X)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    np.testing.assert_allclose(dx, dx_truth, rtol=1e-5)
    for path, leaf in arrays(grads).items():
        np.testing.assert_allclose(leaf, arrays(truth)[path], rtol=1e-5, err_msg=path)


def test_plain_dicts_are_not_rebuilt():
    """A gradient of another tree is the layer's fault, and the check must see it."""

    class Wrong(jaxbp.Dense):
        def backward(self, params, cache, dy):
            dx, grads = super().backward(params, cache, dy)
            return dx, grads | {"extra": grads["b"]}

    params = Wrong(3).init(jax.random.key(0), X)
    assert "extra" in jaxbp.value_and_grad(Wrong(3), SquaredError())(params, BATCH).grads
