"""Composition beyond conformance: memory choices, masks, ties, refused graphs, and what nested init traces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import worst
from jaxbp.compose import Chain, Graph, Node, Stack, parallel, residual
from jaxbp.core import output_spec

X = jax.random.normal(jax.random.key(1), (5, 3))
SPEC = jax.ShapeDtypeStruct(X.shape, X.dtype)


def gradients(model, key=None, dy=None):
    params = model.init(jax.random.key(0), SPEC)

    @jax.jit
    def run(params):
        y, cache = model.forward(params, X, jaxbp.Context(key, model.init_state(SPEC)))
        return y, model.backward(params, cache, jnp.ones_like(y) if dy is None else dy)

    return run(params)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 6, 7, 9])
def test_memory_choices_give_the_same_bits(depth):
    block = jaxbp.Chain((jaxbp.Dense(3), jaxbp.Tanh(), jaxbp.Dropout(0.5)))
    kept = [gradients(Stack(block, depth, keep), jax.random.key(3)) for keep in ("all", "input", "sqrt")]
    assert worst(kept[1], kept[0]) <= 1e-6
    assert worst(kept[2], kept[0]) <= 1e-6
    np.testing.assert_array_equal(kept[1][0], kept[0][0])


def test_group_is_the_divisor_nearest_the_root():
    groups = {depth: Stack(jaxbp.Tanh(), depth, "sqrt")._group() for depth in (1, 7, 12, 16, 100)}
    assert groups == {1: 1, 7: 1, 12: 3, 16: 4, 100: 10}


def test_no_two_layers_share_a_mask():
    """Two dropouts of rate 1/2 that shared a mask would leave half of the entries; independent ones leave a quarter."""
    x = jnp.ones((50, 41))
    twice = jaxbp.Chain((jaxbp.Dropout(0.5), jaxbp.Dropout(0.5)))
    stacked = Stack(jaxbp.Dropout(0.5), 2)
    beside = parallel(jaxbp.Dropout(0.5), jaxbp.Dropout(0.5))
    for model in (twice, stacked):
        y, _ = model.forward(model.init(jax.random.key(0), x), x, jaxbp.Context(jax.random.key(3)))
        assert 0.2 < float((y > 0).mean()) < 0.3
    y, _ = beside.forward({"branch0": {}, "branch1": {}, "join": {}}, x, jaxbp.Context(jax.random.key(3)))
    assert 0.4 < float((y[:, :41] == y[:, 41:]).mean()) < 0.6


def test_dropout_is_a_function_of_its_key_and_off_in_evaluation():
    layer, x = jaxbp.Dropout(0.3), jnp.ones((200, 100))
    y, mask = layer.forward({}, x, jaxbp.Context(jax.random.key(0)))
    np.testing.assert_array_equal(y, layer.forward({}, x, jaxbp.Context(jax.random.key(0)))[0])
    assert (y != layer.forward({}, x, jaxbp.Context(jax.random.key(1)))[0]).any()
    assert abs(float(mask.mean()) - 0.7) < 0.01  # the rate is the fraction dropped
    assert abs(float(y.mean()) - 1) < 0.02  # inverted scaling keeps the mean
    same, cache = layer.forward({}, x, jaxbp.Context(train=False))
    assert same is x
    assert cache is None
    with pytest.raises(jaxbp.InputError, match=r"Dropout: training needs a random key"):
        layer.forward({}, x, jaxbp.Context())


def test_fan_out_adds_every_use():
    """y = x + x + x: a gradient that overwrote instead of added would be 1."""
    triple = Graph((Node("sum", jaxbp.Add(), ("x", "x", "x")),))
    np.testing.assert_array_equal(gradients(triple)[1][0], jnp.full_like(X, 3))


def test_tied_parameters_get_the_sum_of_the_untied_gradients():
    dense = jaxbp.Dense(3)
    tied = Graph((Node("a", dense, ("x",)), Node("b", dense, ("a",), shares="a")))
    chain = jaxbp.Chain((dense, dense))
    w = tied.init(jax.random.key(0), SPEC)["a"]
    params = {"00_dense": w, "01_dense": w}
    y, cache = chain.forward(params, X, jaxbp.Context())
    apart = chain.backward(params, cache, y)[1]
    y, cache = tied.forward({"a": w}, X, jaxbp.Context())
    together = tied.backward({"a": w}, cache, y)[1]
    assert worst(together["a"], jaxbp.backprop.add(apart["00_dense"], apart["01_dense"])) <= 1e-6


def test_residual_with_a_shortcut_and_parallel_sum():
    model = residual(jaxbp.Dense(7), jaxbp.Dense(7, bias=False))
    y, (dx, grads) = gradients(model)
    assert y.shape == (5, 7)
    assert set(grads) == {"body", "shortcut", "sum"}
    assert dx.shape == X.shape
    both = parallel(jaxbp.Tanh(), jaxbp.Tanh(), join=jaxbp.Add())
    np.testing.assert_allclose(gradients(both)[0], 2 * jnp.tanh(X), rtol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((Node("a", jaxbp.Tanh(), ("y",)),), "unknown input of Graph node 'a': 'y'"),
        ((Node("a", jaxbp.Tanh(), ("b",)), Node("b", jaxbp.Tanh(), ("x",))), "unknown input of Graph node 'a': 'b'"),
        ((Node("a", jaxbp.Tanh(), ("x",)), Node("a", jaxbp.Tanh(), ("x",))), "'a' is given twice"),
        ((Node("a", jaxbp.Tanh(), ("x",)), Node("b", jaxbp.Tanh(), ("x",))), "nothing uses 'a'"),
        ((Node("a", jaxbp.Dense(3), ("x",), shares="c"),), "unknown parameter owner of Graph node 'a': 'c'"),
    ],
)
def test_a_graph_that_is_none_is_refused(nodes, message):
    with pytest.raises(jaxbp.InputError, match=message):
        Graph(nodes)


def test_tied_shapes_must_agree():
    model = Graph((Node("a", jaxbp.Dense(7), ("x",)), Node("b", jaxbp.Dense(7), ("a",), shares="a")))
    with pytest.raises(jaxbp.InputError, match="'b' cannot share the parameters of 'a'"):
        model.init(jax.random.key(0), SPEC)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.init(jax.random.key(0), SPEC),
        lambda model: model.init_state(SPEC),
        partial(output_spec, spec=SPEC),
    ],
    ids=["init", "init_state", "output_spec"],
)
def test_nested_combinators_trace_a_leaf_at_most_once_a_level(ask):
    traces = []

    class Leaf(jaxbp.Layer):
        def forward(self, params, x, ctx):
            traces.append(x.shape)
            return x, None

    levels = [lambda body: Chain((body, jaxbp.Tanh())), residual, lambda body: Stack(body, 2)] * 3
    model = Leaf()
    for combine in levels:
        model = combine(model)
    ask(model)
    assert 1 <= len(traces) <= len(levels) + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stack(jaxbp.Tanh(), 0),
        lambda: Stack(jaxbp.Tanh(), 2, "al"),
        lambda: jaxbp.Dense(0),
        lambda: jaxbp.Dense(3, w_init="he_norma"),
        lambda: jaxbp.Dropout(1.0),
        lambda: jaxbp.ELU(-1.0),
    ],
)
def test_impossible_settings_are_refused_with_one_line(make):
    with pytest.raises(jaxbp.InputError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_names_sort_in_forward_order():
    model = jaxbp.Chain((jaxbp.Tanh(),) * 101)
    names = [name for _, name, _ in model.named()]
    assert names == sorted(names)
    assert names[0] == "000_tanh"
