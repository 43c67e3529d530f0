"""The sweep's rules and the adapter beyond conformance, and a user's own activation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import autodiff, check_model, leaf_errors, worst
from jaxbp.layers.activations import activation

MODEL = jaxbp.Chain((jaxbp.Flatten(), jaxbp.Dense(7), jaxbp.Tanh(), jaxbp.Dense(2)))
X, T = jax.random.normal(jax.random.key(0), (5, 3, 2)), jax.random.normal(jax.random.key(1), (5, 2))
PARAMS = MODEL.init(jax.random.key(2), jax.ShapeDtypeStruct(X.shape, X.dtype))
BATCH = {"x": X, "y": T, "weight": jnp.full(5, 0.2)}


def test_value_and_grad_is_autodiffs():
    hand, auto = (jax.jit(f(MODEL, jaxbp.SquaredError()))(PARAMS, BATCH) for f in (jaxbp.value_and_grad, autodiff))
    assert worst(hand, auto) <= 1e-6
    assert hand.state is None


def test_feedback_alignment_is_the_same_backward_with_other_parameters():
    """Exact in the last layer; below it the delta came back through the random weights (Lillicrap et al. 2016)."""
    y, cache = MODEL.forward(PARAMS, X, jaxbp.Context())
    feedback = jax.tree.map(lambda p: jax.random.normal(jax.random.key(9), p.shape), PARAMS)
    true, aligned = (MODEL.sweep(jaxbp.rules.gradient, p, cache, y - T)[1] for p in (PARAMS, feedback))
    np.testing.assert_array_equal(aligned["03_dense"]["w"], true["03_dense"]["w"])
    delta = (y - T) @ feedback["03_dense"]["w"] * (1 - cache["02_tanh"] ** 2)
    np.testing.assert_allclose(aligned["01_dense"]["w"], delta.T @ X.reshape(5, -1), rtol=1e-5)
    assert leaf_errors(aligned, true)["01_dense/w"] > 0.1


def test_deltas_are_the_derivatives_at_each_output():
    y, cache = MODEL.forward(PARAMS, X, jaxbp.Context())
    deltas = MODEL.sweep(jaxbp.rules.delta, PARAMS, cache, y - T)[1]
    after = lambda h: jnp.sum((jnp.tanh(h) @ PARAMS["03_dense"]["w"].T + PARAMS["03_dense"]["b"] - T) ** 2) / 2
    h = X.reshape(5, -1) @ PARAMS["01_dense"]["w"].T + PARAMS["01_dense"]["b"]
    np.testing.assert_allclose(deltas["01_dense"], jax.grad(after)(h), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(deltas["03_dense"], y - T)


class Coupled(jaxbp.Layer):
    """Takes the batch's mean off."""

    couples_batch = True

    def forward(self, params, x, ctx):
        return x - x.mean(0, keepdims=True), None

    def backward(self, params, cache, dy):
        return dy - dy.mean(0, keepdims=True), {}


def test_per_example_rules_refuse_a_layer_that_couples_the_batch():
    model = jaxbp.Chain((jaxbp.Dense(2), Coupled()))
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((5, 3), jnp.float32))
    y, cache = model.forward(params, jnp.ones((5, 3)), jaxbp.Context())
    with pytest.raises(jaxbp.InputError, match="per-example gradients are undefined here: 'coupled' mixes"):
        model.sweep(jaxbp.rules.example_gradients, params, cache, y)


def test_the_adapter_runs_the_hand_written_backward():
    """A planted wrong backward shows up in jax.grad: it is ours that ran, not autodiff."""

    class Wrong(jaxbp.Tanh):
        def backward(self, params, y, dy):
            return 2 * super().backward(params, y, dy)[0], {}

    f = jaxbp.as_function(Wrong())
    grad = jax.grad(lambda x: f({}, x).sum())(jnp.ones(3))
    np.testing.assert_allclose(grad, 2 * (1 - jnp.tanh(1.0) ** 2) * jnp.ones(3), rtol=1e-6)


def test_the_adapter_works_with_keywords_and_context():
    f = jaxbp.as_function(jaxbp.Dropout(0.5))
    ctx = jaxbp.Context(jax.random.key(0))
    grad = jax.jit(jax.grad(lambda x: f({}, x, ctx=ctx).sum()))(jnp.ones((4, 5)))
    assert set(np.unique(grad)) == {0.0, 2.0}


def test_a_users_pair_is_checked_when_it_is_made():
    softsign = jaxbp.Elementwise(lambda x: x / (1 + jnp.abs(x)), lambda x: 1 / (1 + jnp.abs(x)) ** 2)
    y, kept = softsign.forward({}, X, jaxbp.Context())
    np.testing.assert_allclose(softsign.backward({}, kept, jnp.ones_like(y))[0], 1 / (1 + jnp.abs(X)) ** 2, rtol=1e-6)
    with pytest.raises(jaxbp.InputError, match=r"derivative given is .* at x = -3.97, but f has the derivative"):
        jaxbp.Elementwise(jnp.sin, jnp.sin)
    with pytest.raises(jaxbp.InputError, match=r"40 of 40 points differ"):
        jaxbp.Elementwise(jnp.tanh, lambda x: 1.01 * (1 - jnp.tanh(x) ** 2))


def test_step_passes_no_gradient():
    model = jaxbp.Chain((jaxbp.Dense(4), jaxbp.Step(), jaxbp.Dense(2)))
    x = X.reshape(5, -1)
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype))
    y, cache = model.forward(params, x, jaxbp.Context())
    grads = model.backward(params, cache, jnp.ones_like(y))[1]
    assert not grads["00_dense"]["w"].any()
    assert grads["02_dense"]["w"].any()


def test_activations_by_name():
    assert activation("gelu") == jaxbp.GELU()
    assert activation("identity") == jaxbp.Identity()
    with pytest.raises(jaxbp.InputError, match="did you mean 'relu'"):
        activation("rellu")
    with pytest.raises(jaxbp.InputError, match="unknown activation 'elementwise'"):
        activation("elementwise")


@pytest.mark.parametrize(
    "leaf",
    [
        "01_dense/b",
        *(pytest.param(leaf, marks=pytest.mark.slow) for leaf in ("01_dense/w", "03_dense/w", "03_dense/b")),
    ],
)
def test_the_check_catches_a_planted_fault_in_every_leaf(strict, leaf):
    """One per mille too large, in one leaf: named, and nothing else is blamed."""
    name, parameter = leaf.split("/")

    class Wrong(jaxbp.Dense):
        label = "dense"

        def backward(self, params, x, dy):
            dx, grads = super().backward(params, x, dy)
            return dx, grads | {parameter: 1.001 * grads[parameter]}

    wrong = lambda i, layer: Wrong(layer.features) if name.startswith(f"{i:02d}") else layer
    model = jaxbp.Chain(tuple(wrong(i, layer) for i, layer in enumerate(MODEL.layers)))
    report = check_model(model, jaxbp.SquaredError(), PARAMS, BATCH)
    assert [checked.path for checked in report.leaves if not checked.passed] == [leaf]
    assert check_model(MODEL, jaxbp.SquaredError(), PARAMS, BATCH).passed


def test_error_measure():
    reference = {"big": jnp.array([1000.0]), "zero": jnp.array([0.0])}
    gradient = {"big": jnp.array([1001.0]), "zero": jnp.array([1e-3])}
    assert leaf_errors(gradient, reference) == pytest.approx(
        {"big": 1e-3, "zero": 1e-3}
    )  # a zero leaf: 1e-3 of the largest
    assert leaf_errors({"a": jnp.array([jnp.nan])}, {"a": jnp.ones(1)}) == {"a": float("inf")}
    assert leaf_errors({"a": jnp.ones((2, 3))}, {"a": jnp.ones((3, 2))}) == {"a": float("inf")}
    with pytest.raises(ValueError, match="trees differ"):
        leaf_errors({"a": 1.0}, {"b": 1.0})
