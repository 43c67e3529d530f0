"""Embedding, OneHot and TappedDelay: repeated and foreign ids, one-hot equivalence, factors, delays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Context, Dense, Embedding, InputError, OneHot, Recurrent, SimpleCell, TappedDelay
from jaxbp.check import worst
from jaxbp.layers import embedding as module
from jaxbp.layers.embedding import added_rows
from tests.support.programs import compiled

pytestmark = pytest.mark.usefixtures("strict")
IDS = jnp.array([[0, 2, 2, 4, 2], [4, 4, 4, 4, 4], [1, 0, 1, 0, 3]])
V, D = 5, 3


def table_and_delta():
    keys = jax.random.split(jax.random.key(0))
    return {"w": jax.random.normal(keys[0], (V, D))}, jax.random.normal(keys[1], (*IDS.shape, D))


def test_repeated_ids_add():
    params, dy = table_and_delta()
    layer = Embedding(V, D)
    y, ids = layer.forward(params, IDS, Context())
    dtable = np.zeros((V, D))
    np.add.at(dtable, np.asarray(IDS), np.asarray(dy))
    dx, grads = layer.backward(params, ids, dy)
    assert dx is None
    assert worst((y, grads["w"]), (np.asarray(params["w"])[np.asarray(IDS)], dtable)) <= 1e-15


def test_it_is_a_one_hot_layer_and_a_product():
    params, dy = table_and_delta()
    model = Chain((OneHot(V), Dense(D, bias=False)))
    dense = {"00_onehot": {}, "01_dense": {"w": params["w"].T}}
    y, cache = model.forward(dense, IDS, Context())
    grads = model.backward(dense, cache, dy)[1]
    layer = Embedding(V, D)
    y_rows, ids = layer.forward(params, IDS, Context())
    assert worst((y, grads["01_dense"]["w"].T), (y_rows, layer.backward(params, ids, dy)[1]["w"])) <= 1e-14


@pytest.mark.parametrize("foreign", [-1, V, 1000, -1000])
def test_a_foreign_id_is_seen_and_gets_no_gradient(foreign):
    """Row -1 is not the last one."""
    params, dy = table_and_delta()
    ids, layer = IDS.at[1].set(foreign), Embedding(V, D)
    y = layer.forward(params, ids, Context())[0]
    assert jnp.isnan(y[1]).all()
    assert not jnp.isnan(y[::2]).any()
    grads = layer.backward(params, ids, dy)[1]
    assert worst(grads, layer.backward(params, IDS[::2], dy[::2])[1]) <= 1e-15
    oracle = jax.vjp(lambda p: layer.forward(p, ids, Context())[0], params)[1](dy)[0]
    assert worst(grads, oracle) <= 1e-15
    assert not OneHot(V).forward({}, ids, Context())[0][1].any()
    norms = layer.factors(params, ids, dy)["w"].squared_norms()
    assert norms[1] == 0


def test_the_product_for_other_devices_gives_the_same(monkeypatch):
    _, dy = table_and_delta()
    ids = IDS.at[0, 0].set(-1).at[0, 1].set(V)
    scattered = added_rows(ids, dy, V)
    monkeypatch.setattr(module.jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    assert worst(added_rows(ids, dy, V), scattered) <= 1e-15


def test_factors_of_a_shared_table_join_along_the_positions():
    """As the merge of a tied parameter's uses does it."""
    params, dy = table_and_delta()
    layer = Embedding(V, D)
    both_uses = lambda ids, dy: (
        layer.backward(params, ids, dy)[1]["w"] + layer.backward(params, (ids + 1) % V, 2 * dy)[1]["w"]
    )
    joined = layer.factors(params, IDS, dy)["w"].concatenated(layer.factors(params, (IDS + 1) % V, 2 * dy)["w"])
    assert worst(joined.gradient(), both_uses(IDS, dy)) <= 1e-14
    examples = [both_uses(IDS[n], dy[n]) for n in range(len(IDS))]
    assert worst(joined.squared_norms(), np.array([np.sum(g * g) for g in examples])) <= 1e-13


@pytest.mark.slow
def test_under_a_recurrent_layer():
    model = Chain((Embedding(V, D), Recurrent(SimpleCell(4), output="last")))
    params = jaxbp.cast(model.init(jax.random.key(0), jaxbp.shaped(3, 5, dtype=jnp.int32)), jnp.float64)
    y, cache = model.forward(params, IDS, Context())
    dx, grads = model.backward(params, cache, y)
    assert dx is None
    oracle = jax.vjp(lambda p: model.forward(p, IDS, Context())[0], params)[1](y)[0]
    assert worst(grads, oracle) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("taps", [1, 3, 7, 9])
def test_tapped_delay(taps):
    """Also where there are more taps than steps."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 7, 3))
    layer = TappedDelay(taps)
    y = layer.forward({}, x, Context())[0]
    for t in range(7):
        for k in range(taps):
            np.testing.assert_array_equal(y[:, t, 3 * k : 3 * k + 3], x[:, t - k] if t >= k else jnp.zeros((2, 3)))
    dy = jax.random.normal(keys[1], y.shape)
    oracle = jax.vjp(lambda x: layer.forward({}, x, Context())[0], x)[1](dy)[0]
    assert worst(layer.backward({}, None, dy)[0], oracle) <= 1e-15


def test_weights_on_a_delay_line_are_a_finite_impulse_response():
    x, w = np.array([1.0, -2.0, 0.5, 3.0, 0.0, 4.0]), np.array([0.5, -1.0, 2.0])
    delayed = TappedDelay(3).forward({}, jnp.asarray(x)[None, :, None])[0]
    y = jaxbp.Dense(1, bias=False).forward({"w": jnp.asarray(w)[None]}, delayed)[0]
    np.testing.assert_array_equal(y[0, :, 0], np.convolve(x, w)[:6])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Embedding(0, 3), "Embedding: vocabulary must be at least 1, got 0"),
        (lambda: Embedding(3, 2, w_init="nomal"), "did you mean 'normal'"),
        (lambda: Embedding(3, 2).init(jax.random.key(0), jaxbp.shaped(5, 7)), "the input is integer ids, got float32"),
        (lambda: OneHot(0), "vocabulary must be at least 1, got 0"),
        (lambda: TappedDelay(0), "taps must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_on_the_cpu_the_gradient_is_one_scatter():
    layer = Embedding(1000, 7)
    params = layer.init(jax.random.key(0), IDS)
    back = jax.jit(lambda ids, dy: layer.backward(params, ids, dy)).lower(IDS, jnp.ones((*IDS.shape, 7)))
    text = compiled(back).as_text()
    assert "1000,15]" not in text
    assert "15,1000]" not in text
