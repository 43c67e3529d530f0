"""Mixed precision: what is rounded and what is not, and a scale of the loss that follows what overflows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp.backprop import value_and_grad
from jaxbp.config import replace_keys
from jaxbp.core import Context, cast
from jaxbp.errors import InputError
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.optim import Private, VariableRate
from jaxbp.training import precision
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.loop import NotFinite, train
from jaxbp.training.precision import Scaling, loss_scaled
from jaxbp.training.run import load
from jaxbp.training.step import accumulated, initial_state, make_step
from jaxbp.wrappers import ComputedIn, computed_in
from tests.support.runs import small

IDS = jaxbp.Chain(jaxbp.Embedding(7, 4), jaxbp.LayerNorm(), jaxbp.Dense(3))
FLOATS = jaxbp.Chain(jaxbp.Dense(5), jaxbp.Tanh(), jaxbp.Dense(3))


def setting(model, ids):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.integers(7, size=(6, 2))) if ids else jnp.asarray(random.normal(size=(6, 4)), jnp.float32)
    y = jnp.asarray(random.integers(3, size=x.shape[:2] if ids else (6,)))
    return model.init(jax.random.key(0), x), jaxbp.batch(x, y)


@pytest.mark.parametrize("model", [IDS, FLOATS], ids=["ids", "floats"])
def test_a_model_is_computed_in_the_dtype_and_its_gradients_are_float32(model):
    """Forward and backward are those of the same layers on inputs of that dtype; loss and gradients are float32."""
    params, batch = setting(model, model is IDS)
    half = computed_in(model, "bfloat16")
    inner = half.inner
    x = cast(batch["x"], "bfloat16")
    y, cache = inner.forward(params, x, Context())
    assert y.dtype == jnp.bfloat16
    kept = [a for a in jax.tree.leaves(cache) if jnp.issubdtype(a.dtype, jnp.floating) and a.shape[-1] > 1]
    assert {a.dtype for a in kept} == {jnp.dtype("bfloat16")}  # but the statistics of a norm, one for each vector
    loss = SoftmaxCrossEntropy()
    value, kept = loss.forward(y.astype(jnp.float32), batch["y"], batch["weight"])
    _, grads = inner.backward(params, cache, loss.backward(kept).astype(jnp.bfloat16))
    result = value_and_grad(half, loss)(params, batch)
    assert result.value.dtype == result.output.dtype == jnp.float32
    assert {g.dtype for g in jax.tree.leaves(result.grads)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(result.value, value)
    jax.tree.map(np.testing.assert_array_equal, result.grads, grads)
    plain = value_and_grad(model, loss)(params, batch)
    assert 1e-5 < jaxbp.check.worst(result.grads, plain.grads) < 0.05  # rounded, and no more than that


def test_the_door_gives_dx_in_the_dtype_of_x_and_keeps_names():
    params, batch = setting(FLOATS, ids=False)
    half = ComputedIn(FLOATS, "bfloat16")
    y, cache = half.forward(params, batch["x"])
    dx, _ = half.backward(params, cache, y)
    assert dx.dtype == jnp.float32
    assert jax.tree.structure(half.init(jax.random.key(0), batch["x"])) == jax.tree.structure(params)
    assert computed_in(FLOATS, "float32") is FLOATS


def test_micro_batches_add_up_in_float32():
    params, batch = setting(FLOATS, ids=False)
    gradient = value_and_grad(computed_in(FLOATS, "bfloat16"), SoftmaxCrossEntropy())
    jaxpr = jax.make_jaxpr(accumulated(gradient, 3))(params, batch, Context())
    (loop,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan")
    carried = loop.outvars[: loop.params["num_carry"]]
    assert [str(variable.aval.dtype) for variable in carried] == ["float32"] * (1 + len(jax.tree.leaves(params)))


def test_a_scale_changes_no_bit_of_a_gradient():
    """It is a power of two: what does not overflow is the same."""
    params, batch = setting(FLOATS, ids=False)
    gradient = value_and_grad(FLOATS, SoftmaxCrossEntropy())
    plain = gradient(params, batch)
    scaled = loss_scaled(gradient)(params, batch | {"scale": jnp.float32(2**12)})
    np.testing.assert_array_equal(plain.value, scaled.value)
    jax.tree.map(np.testing.assert_array_equal, plain.grads, scaled.grads)


def test_a_step_that_overflows_is_skipped_and_halves_the_scale(monkeypatch):
    monkeypatch.setattr(precision, "PATIENCE", 2)
    model = computed_in(FLOATS, "float16")
    optimizer = optax.adam(1e-2)
    _, batch = setting(FLOATS, ids=False)
    state = initial_state(model, optimizer, batch["x"], 0)
    assert state.scaling.scale == precision.FIRST
    step = jax.jit(make_step(loss_scaled(value_and_grad(model, SoftmaxCrossEntropy())), optimizer))
    rows = {"x": batch["x"], "y": batch["y"], "mask": jnp.ones(6)}

    high = replace(state, scaling=Scaling(jnp.float32(2.0**24), jnp.int32(1)))
    after = step(high, rows)
    assert after.finite
    assert (after.step, after.scaling.scale, after.scaling.steps) == (1, 2.0**23, 0)
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.optimizer), (high.params, high.optimizer))
    assert after.examples == 6
    assert np.isfinite(after.loss_sum)

    finite = step(step(state, rows), rows)  # two finite steps double it
    assert (finite.step, finite.scaling.scale) == (2, 2 * precision.FIRST)
    assert jaxbp.check.worst(finite.params, state.params) > 0

    overflowing = state.params | {  # outputs (50, 0, -50), so that the delta is (1, 0, -1), and 120,000 one layer below
        "00_dense": jax.tree.map(jnp.zeros_like, state.params["00_dense"]),
        "02_dense": {"w": jnp.outer(jnp.array([6e4, 0, -6e4]), jnp.ones(5)), "b": jnp.array([50.0, 0, -50])},
    }
    wrong = {"x": batch["x"], "y": jnp.full(6, 2), "mask": jnp.eye(6)[0]}
    at = lambda scale: replace(state, params=overflowing, scaling=Scaling(jnp.float32(scale), jnp.int32(0)))
    assert step(at(2), wrong).finite
    assert step(at(2), wrong).scaling.scale == 1
    for bad in (step(at(1), wrong), step(state, rows | {"x": rows["x"] * jnp.nan})):  # no scale would help
        assert not bad.finite
        assert bad.step == 0


@pytest.mark.slow
def test_a_run_in_float16_goes_on_after_overflows_and_resumes_with_its_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "FIRST", 2.0**24)
    config = replace_keys(small(epochs=2), {"run.dtype": "float16"})
    row = train(config, tmp_path / "a")
    assert np.isfinite(row["train_loss"])
    trained = load(tmp_path / "a")
    assert isinstance(trained.model, ComputedIn)
    longer = replace_keys(config, {"run.epochs": 2})
    assert train(longer, tmp_path / "a") == row  # nothing is left to do


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.nightly)])
def test_a_run_evaluates_in_its_dtype(dtype, tmp_path):
    config = replace_keys(small(epochs=1), {"run.dtype": dtype})
    row = train(config, tmp_path)
    splits = config.load_data()
    trained = load(tmp_path)
    y, _ = trained.model.forward(trained.params, jnp.asarray(splits.test.x), Context.evaluation(trained.state))
    batch = jaxbp.batch(splits.test.x, splits.test.y)
    value, _ = config.loss.forward(y, batch["y"], batch["weight"])
    assert row["test_loss"] == pytest.approx(float(value), abs=1e-3)  # fusion leaves out some rounding
    plain = make_evaluation(trained.model.inner, config.loss, True)(trained.params, trained.state, splits.test)
    assert row["test_loss"] != plain["loss"]


def test_what_takes_more_than_the_gradient_is_refused(tmp_path):
    config = replace_keys(small(epochs=1), {"run.dtype": "bfloat16"})
    for key, value in (("optimizer.private", Private()), ("run.noise_scale_every", 1), ("optimizer", VariableRate())):
        with pytest.raises(
            InputError, match=r"takes more than the gradient, which needs run.dtype=float32, got bfloat16"
        ):
            train(replace_keys(config, {key: value}), tmp_path)


def test_a_loss_that_is_not_finite_ends_a_run_in_float16(tmp_path):
    config = replace_keys(small(epochs=1), {"run.dtype": "float16", "optimizer.learning_rate": 1e30})
    with pytest.raises(NotFinite):
        train(config, tmp_path)
