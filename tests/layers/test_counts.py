"""Rows and steps that do not count may hold anything: it reaches no output, loss, gradient, norm or statistic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import losses
from jaxbp.analysis import curvature, per_example, products
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE, autodiff
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError

BAD = [np.nan, np.inf, -np.inf]
RECURRENT = [
    (jaxbp.SimpleCell(2), {}, "flags"),
    (jaxbp.LSTMCell(2), {"reverse": True, "keep": "sqrt"}, "numbers"),
    (jaxbp.LSTMCell(2, peephole=True), {"output": "last", "keep": "states"}, "lengths"),
    (jaxbp.GRUCell(2), {"reverse": True, "initial": "learned"}, "flags"),
]


compiled = functools.cache(jax.jit)  # one program for all values


def is_equal(tree, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "setting", "valid"), RECURRENT, ids=str)
def test_masked_steps_of_a_recurrent_layer(cell, setting, valid):
    layer = jaxbp.Recurrent(cell, **setting)
    lengths = np.array([5, 3, 4], np.int32)
    flags = np.arange(5) < lengths[:, None]
    x = jax.random.normal(jax.random.key(0), (3, 5, 4))
    counting = {"flags": flags, "numbers": flags.astype(np.float32), "lengths": lengths}[valid]
    params = layer.init(jax.random.key(1), (x, counting))
    dy = jax.random.normal(jax.random.key(2), layer.forward(params, (x, counting), jaxbp.Context())[0].shape)

    @jax.jit
    def run(x):
        y, cache = layer.forward(params, (x, jnp.asarray(counting)), jaxbp.Context())
        norms = {name: leaf.squared_norms() for name, leaf in layer.factors(params, cache, dy).items()}
        (dx, _), grads = layer.backward(params, cache, dy)
        return y, dx, grads, norms

    clean = run(x)
    for value in BAD:
        assert is_equal(run(jnp.where(flags[..., None], x, value)), clean)


# --- losses ----------------------------------------------------------------------------------------------------------

LOSSES = [loss() for loss in losses.Loss.__subclasses__() if loss.__module__ == "jaxbp.losses"]


@pytest.mark.slow
@pytest.mark.parametrize("time", [(), (3,)], ids=["rows", "steps"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_items_of_weight_zero(loss, time):
    """Whatever is in their outputs or targets."""
    y = jax.random.normal(jax.random.key(0), (4, *time, 5))
    weight = jnp.ones((4, *time)).at[1].set(0).at[3].set(0)
    target = jax.nn.softmax(jax.random.normal(jax.random.key(1), y.shape))
    outside = -7 * jnp.ones((), jnp.int32)
    if isinstance(loss, losses.MulticlassHinge):
        target = jnp.argmax(target, -1)

    def run(y, target):
        value, cache = loss.forward(y, target, weight)
        return value, loss.backward(cache)

    value, dy = clean = run(y, target)
    assert np.isfinite(value)
    assert np.any(dy[0])
    assert not np.any(dy[1::2])
    for bad in BAD:
        masked = lambda a, bad: jnp.where(weight.reshape(*weight.shape, *(1,) * (a.ndim - weight.ndim)) == 0, bad, a)
        bad_target = outside if jnp.issubdtype(target.dtype, jnp.integer) else bad
        assert is_equal(run(masked(y, bad), masked(target, bad_target)), clean)


# --- rows ------------------------------------------------------------------------------------------------------------

BATCH_NORMS = [jaxbp.BatchNorm(), jaxbp.BatchNormReLU(0.7)]


def with_counts(layer, shape, counts):
    """(params, x, dy, context) in float64, with jittered parameters and a state."""
    keys = jax.random.split(jax.random.key(0), 4)
    spec = jax.ShapeDtypeStruct(shape, jnp.float64)
    jitter = lambda p: p.astype(jnp.float64) + 0.3 * jax.random.normal(keys[p.size % 2], p.shape, jnp.float64)
    params = jax.tree.map(jitter, layer.init(keys[0], spec))
    x, dy = (jax.random.normal(key, shape, jnp.float64) for key in keys[2:])
    state = jaxbp.cast(layer.init_state(spec), jnp.float64)
    return params, 2 * x + 1, dy, jaxbp.Context(None, state, counts=counts)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 3), (7, 2, 5, 3)], ids=str)
@pytest.mark.parametrize("layer", BATCH_NORMS, ids=lambda layer: type(layer).__name__)
def test_batch_norm_with_counts_is_the_vjp_of_its_own_forward(strict, layer, shape):
    """Deltas in rows that do not count too: their outputs depend on the statistics."""
    params, x, dy, ctx = with_counts(layer, shape, jnp.arange(7) % 3 != 1)

    @jax.jit
    def both(params, x, dy):
        _, cache = layer.forward(params, x, ctx)
        truth = jax.vjp(lambda params, x: layer.forward(params, x, ctx)[0], params, x)[1](dy)
        return layer.backward(params, cache, dy), truth

    (dx, grads), truth = both(params, x, dy)
    assert worst((grads, dx), truth) <= FLOAT64_TOLERANCE
    assert not np.any(dx[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("layer", BATCH_NORMS, ids=lambda layer: type(layer).__name__)
def test_masked_rows_anywhere_are_as_if_they_were_not_there(strict, layer, number):
    counts = np.random.default_rng(number).random(7) < 0.6
    counts[number % 7] = True
    params, x, dy, ctx = with_counts(layer, (7, 2, 3), jnp.asarray(counts))

    def run(x, dy, ctx):
        y, cache = layer.forward(params, x, ctx)
        dx, grads = layer.backward(params, cache, dy)
        return y, dx, grads, layer.next_state(ctx.state, cache)

    y, dx, grads, state = run(jnp.where(counts[:, None, None], x, np.nan), jnp.where(counts[:, None, None], dy, 0), ctx)
    without = run(x[counts], dy[counts], jaxbp.Context(None, ctx.state))
    assert worst((y[counts], dx[counts], grads, state), without) <= FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layer", BATCH_NORMS, ids=lambda layer: type(layer).__name__)
def test_a_batch_in_which_no_row_counts(strict, layer):
    params, x, dy, ctx = with_counts(layer, (4, 3), jnp.zeros(4, bool))
    _, cache = layer.forward(params, x * np.nan, ctx)
    dx, grads = layer.backward(params, cache, 0 * dy)
    assert not np.any(dx)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    assert is_equal(layer.next_state(ctx.state, cache), ctx.state)


MODEL = jaxbp.Chain(
    (jaxbp.Conv(3, (2, 2)), jaxbp.BatchNormReLU(), jaxbp.Flatten(), jaxbp.Dense(4), jaxbp.BatchNorm(), jaxbp.Dense(2))
)
VALUE_AND_GRAD, TRUTH = jaxbp.value_and_grad(MODEL, SquaredError()), autodiff(MODEL, SquaredError())


def rows_and_batch(counts):
    """(float64 params, context, a batch in which `counts` rows have weights, which rows those are)."""
    x = jax.random.normal(jax.random.key(1), (6, 4, 5, 2), jnp.float64)
    params = jaxbp.cast(MODEL.init(jax.random.key(0), x), jnp.float64)
    ctx = jaxbp.Context(None, jaxbp.cast(MODEL.init_state(x), jnp.float64))
    y = jax.random.normal(jax.random.key(2), (6, 2), jnp.float64)
    return params, ctx, {"x": x, "y": y, "weight": counts / counts.sum()}, counts > 0


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0.0, *BAD])
@pytest.mark.parametrize("counts", [[1, 1, 0, 1, 0, 1], [0, 0, 1, 2, 1, 0.5], [1, 1, 1, 1, 1, 1]], ids=str)
def test_value_and_grad_with_masked_rows(strict, counts, bad):
    """The value, gradient and running statistics of the batch without them, and those of autodiff."""
    params, ctx, batch, counts = rows_and_batch(np.array(counts, float))
    keep = lambda a: a[counts]
    spoiled = batch | {name: batch[name].at[~counts].set(bad) for name in ("x", "y")}
    result = compiled(VALUE_AND_GRAD)(params, spoiled, ctx)
    without = compiled(VALUE_AND_GRAD)(params, jax.tree.map(keep, batch), ctx)
    same = lambda result: (result.value, result.grads, result.state)
    assert worst(same(result), same(without)) <= FLOAT64_TOLERANCE
    assert worst(result.output[counts], without.output) <= FLOAT64_TOLERANCE
    masked = spoiled | {"y": jnp.where(counts[:, None], batch["y"], 0)}  # autodiff's own loss has 0 times nan
    assert worst(same(result), same(compiled(TRUTH)(params, masked, ctx))) <= FLOAT64_TOLERANCE


SEQUENCES = jaxbp.Chain((jaxbp.Dense(3), jaxbp.Recurrent(jaxbp.GRUCell(3)), jaxbp.Dense(2)))


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "quantity",
    [
        per_example.squared_norms(SEQUENCES, SoftmaxCrossEntropy()),
        per_example.second_moment(SEQUENCES, SoftmaxCrossEntropy()),
        per_example.inner_products(SEQUENCES, SoftmaxCrossEntropy()),
        per_example.clipped_gradient(SEQUENCES, SoftmaxCrossEntropy(), 0.1, "sum", "kept"),
        curvature.diagonal(SEQUENCES, SoftmaxCrossEntropy(), "gauss_newton"),
        curvature.diagonal(SEQUENCES, SoftmaxCrossEntropy(), "empirical"),
        lambda params, batch: products.gauss_newton(SEQUENCES, SoftmaxCrossEntropy())(params, batch, params),
        lambda params, batch: products.fisher(SEQUENCES, SoftmaxCrossEntropy(), True)(params, batch, params),
    ],
    ids=["norms", "moments", "products", "clipped", "diagonal", "empirical", "gauss_newton", "fisher"],
)
def test_analysis_with_masked_rows(quantity, bad):
    """Targets are distributions, which may be nan as well."""
    x = jax.random.normal(jax.random.key(0), (3, 2, 4))
    params = SEQUENCES.init(jax.random.key(1), x)
    y = jax.nn.softmax(jax.random.normal(jax.random.key(2), (3, 2, 2)))
    batch = {"x": x, "y": y, "weight": jnp.ones((3, 2)).at[1].set(0)}
    spoiled = batch | {name: batch[name].at[1].set(bad) for name in ("x", "y")}
    clean, result = (jax.tree.leaves(compiled(quantity)(params, batch)) for batch in (batch, spoiled))
    assert all(np.all(np.isfinite(leaf)) for leaf in result)
    for a, b in zip(clean, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("norm", BATCH_NORMS, ids=lambda layer: type(layer).__name__)
def test_batch_norm_in_evaluation_has_per_example_gradients(strict, norm):
    model = jaxbp.Chain((jaxbp.Dense(4), norm, jaxbp.Dense(2)))
    x = jax.random.normal(jax.random.key(0), (5, 3), jnp.float64)
    params = jaxbp.cast(model.init(jax.random.key(1), x), jnp.float64)
    state = jaxbp.cast(model.init_state(x), jnp.float64)
    state = jax.tree.map(lambda s: s + 0.3, state)
    ctx = jaxbp.Context(None, state, train=False)
    batch = {"x": x, "y": jnp.ones((5, 2)), "weight": jnp.ones(5)}

    def loss(params, x, y):
        value, _ = SquaredError().forward(model.forward(params, x[None], ctx)[0], y[None], jnp.ones(1))
        return value

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(params, x, batch["y"])
    truth = jax.tree.map(lambda g: jnp.sum(jnp.square(g).reshape(5, -1), 1), gradients)
    norms = jax.jit(per_example.squared_norms(model, SquaredError()))(params, batch, ctx)
    assert worst(norms, truth) <= FLOAT64_TOLERANCE
    y, cache = model.forward(params, x, ctx)
    examples = model.sweep(jaxbp.rules.example_gradients, params, cache, y - batch["y"])[1]
    assert worst(examples, gradients) <= FLOAT64_TOLERANCE
    with pytest.raises(jaxbp.InputError, match="mixes the examples"):
        per_example.squared_norms(model, SquaredError())(params, batch, jaxbp.Context(None, state))
