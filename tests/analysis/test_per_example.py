"""Per-example norms, inner products, moments and clipping against vmap(jax.grad), on models of every kind of weight."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp.analysis import per_example
from jaxbp.check import worst
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import CNN, MLP
from tests.support.models import PER_EXAMPLE
from tests.support.models import per_example_setting as setting

pytestmark = pytest.mark.usefixtures("float64")
ACCURACY = 1e-10
NORM = 1.1
EACH = pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in PER_EXAMPLE if name != "mlp")]
)


@cache
def measured(name):
    """Everything about the model in one compiled program: ours, and each example's gradient by vmap(jax.grad)."""
    model, loss, params, batch = setting(name)

    @jax.jit
    def run(params, batch):
        def alone(params, row):
            one = jax.tree.map(lambda a: a[None], row)
            y = model.forward(params, one["x"], jaxbp.Context())[0]
            return loss.forward(y, one["y"], one["weight"])[0]

        clip = lambda norm, reduction, sweeps: per_example.clipped_gradient(model, loss, norm, reduction, sweeps)
        return {
            "each": jax.vmap(jax.grad(alone), (None, 0))(params, batch),
            "norms": per_example.squared_norms(model, loss)(params, batch),
            "products": per_example.inner_products(model, loss)(params, batch),
            "moment": per_example.second_moment(model, loss)(params, batch),
            "two": clip(NORM, "sum", "two")(params, batch),
            "one": clip(NORM, "sum", "one")(params, batch),
            "mean": clip(NORM, "mean", "two")(params, batch),
            "none": clip(1e9, "sum", "one")(params, batch),
            "plain": jaxbp.value_and_grad(model, loss)(params, batch),
        }

    return run(params, batch)


def flat(each):
    """[N, P]."""
    return jnp.concatenate([g.reshape(len(g), -1) for g in jax.tree.leaves(each)], 1)


@EACH
def test_squared_norms_of_every_leaf(name):
    found = measured(name)
    want = jax.tree.map(lambda g: jnp.sum(g * g, range(1, g.ndim)), found["each"])
    assert worst(found["norms"], want) <= ACCURACY


@EACH
def test_inner_products_and_cosines(name):
    found = measured(name)
    g = flat(found["each"])
    assert worst(found["products"], g @ g.T) <= ACCURACY
    unit = g / jnp.linalg.norm(g, axis=1, keepdims=True)
    assert worst(per_example.cosines(found["products"]), unit @ unit.T) <= ACCURACY


@EACH
def test_second_moment(name):
    found = measured(name)
    assert worst(found["moment"], jax.tree.map(lambda g: jnp.sum(g * g, 0), found["each"])) <= ACCURACY


@EACH
def test_clipping_is_the_sum_of_clipped_gradients(name):
    found = measured(name)
    norms = jnp.linalg.norm(flat(found["each"]), axis=1)
    assert float(norms.min()) < NORM < float(norms.max()) or name != "mlp"  # some are clipped and some are not
    scale = jnp.minimum(1, NORM / norms)
    want = jax.tree.map(lambda g: jnp.tensordot(scale, g, 1), found["each"])
    for sweeps in ("two", "one"):
        assert worst(found[sweeps].grads, want) <= ACCURACY
        assert worst(found[sweeps].norms, norms) <= ACCURACY
        assert found[sweeps].value == found["plain"].value
    assert worst(found["mean"].grads, jax.tree.map(lambda g: g / 5, want)) <= ACCURACY
    assert worst(found["none"].grads, found["plain"].grads) <= ACCURACY
    if name == "mlp":  # optax, which is given all the gradients
        private = optax.contrib.differentially_private_aggregate(NORM, 0.0, jax.random.key(0))
        theirs = private.update(found["each"], private.init(setting(name)[2]))[0]
        assert worst(found["mean"].grads, theirs) <= 1e-6


@EACH
def test_groups_and_the_spread_between_examples(name):
    found = measured(name)
    g = flat(found["each"])
    groups = jnp.arange(len(g)) % 2
    sums = jnp.stack([g[groups == k].sum(0) for k in range(2)])
    assert worst(per_example.grouped(found["products"], groups, 2), sums @ sums.T) <= ACCURACY
    single = jax.tree.map(lambda g: len(g) * g, found["each"])  # as if with weights of 1 / N
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), single)
    spread = per_example.variance(found["moment"], mean, len(g))
    want = jax.tree.map(lambda g: jnp.var(g, 0, ddof=1), single)
    assert worst(spread, want) <= ACCURACY
    ratio = per_example.signal_to_noise(mean, want)
    assert worst(ratio, jax.tree.map(lambda m, v: jnp.where(m == 0, 0, m * m / v), mean, want)) <= ACCURACY


def test_a_gradient_of_zero_stays_zero():
    model, loss, params, batch = setting("mlp")
    nothing = batch | {"weight": jnp.zeros(5)}
    found = per_example.clipped_gradient(model, loss, 1.0, "sum")(params, nothing)
    assert not any(np.any(g) for g in jax.tree.leaves(found.grads))
    assert not np.any(per_example.cosines(per_example.inner_products(model, loss)(params, nothing)))


def test_noise_scale_of_gradients_that_are_known():
    """Both estimates are unbiased: their means over many batches of 4 are the population's."""
    random = np.random.default_rng(0)
    true, spread, n = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 0.1]), 4
    each = true + spread * random.normal(size=(20_000, n, 3))
    found = jax.vmap(lambda g: per_example.noise(jnp.sum((g / n) ** 2, 1), [g.mean(0)]))(jnp.asarray(each))
    assert abs(found.variance.mean() / np.sum(spread**2) - 1) < 0.02
    assert abs(found.signal.mean() / np.sum(true**2) - 1) < 0.03
    mean = per_example.Noise(found.variance.mean(), found.signal.mean())
    assert abs(mean.scale / (np.sum(spread**2) / np.sum(true**2)) - 1) < 0.05


@pytest.mark.parametrize(
    "made",
    [
        lambda *of: per_example.squared_norms(*of),
        lambda *of: per_example.inner_products(*of),
        lambda *of: per_example.second_moment(*of),
        lambda *of: per_example.clipped_gradient(*of, 1.0, "sum"),
    ],
)
def test_layers_that_couple_a_batch_are_refused(made):
    model = jaxbp.Chain((jaxbp.Dense(3), jaxbp.BatchNorm(), jaxbp.Dense(1)))
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((5, 2), jnp.float64))
    with pytest.raises(jaxbp.InputError, match=r"^no example has a gradient of its own through 'batchnorm'"):
        made(model, SquaredError())(params, {"x": jnp.ones((5, 2)), "y": jnp.ones((5, 1)), "weight": jnp.ones(5)})


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((0, "sum"), "clipped_gradient: norm must be above 0, got 0"),
        ((1, "men"), "unknown clipped_gradient reduction 'men'; did you mean 'mean'"),
        ((1, "sum", "tow"), "unknown clipped_gradient sweeps 'tow'; did you mean 'two'"),
    ],
)
def test_bad_words_are_refused(words, line):
    with pytest.raises(jaxbp.InputError, match=f"^{line}"):
        per_example.clipped_gradient(PER_EXAMPLE["mlp"][0], SquaredError(), *words)


NETS = {
    "mlp": (MLP(outputs=10, hidden=(512, 512)).build(), (784,)),
    "cnn": (CNN(outputs=10, hidden=(256,)).build(), (28, 28, 1)),
    "lstm": (jaxbp.Chain((jaxbp.Recurrent(jaxbp.LSTMCell(128), output="last"), jaxbp.Dense(10))), (64, 64)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_temporary_bytes_beside_those_of_a_plain_gradient(name):
    """Norms and clipping take at most 1.6 times as much; norms of 784-512-512-10 1/100 of the gradients' bytes."""
    rows = 256
    (model, shape), ones, loss = NETS[name], partial(jnp.ones, dtype=jnp.float32), SoftmaxCrossEntropy()
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((rows, *shape), jnp.float32))
    batch = {"x": ones((rows, *shape)), "y": jnp.zeros(rows, jnp.int32), "weight": ones(rows)}
    memory = lambda f: jax.jit(f).lower(params, batch).compile().memory_analysis()
    plain = memory(jaxbp.value_and_grad(model, loss)).temp_size_in_bytes
    norms = memory(per_example.squared_norms(model, loss)).temp_size_in_bytes
    assert norms <= 1.6 * plain
    for sweeps in ("one", "two"):
        assert memory(per_example.clipped_gradient(model, loss, 1.0, "sum", sweeps)).temp_size_in_bytes <= 1.6 * plain
    if name == "mlp":
        alone = lambda params, row: loss.forward(
            model.forward(params, row["x"][None], jaxbp.Context())[0], row["y"][None], ones(1)
        )[0]
        each = memory(lambda params, batch: jax.vmap(jax.grad(alone), (None, 0))(params, batch))
        assert norms <= (each.temp_size_in_bytes + each.output_size_in_bytes) / 100
