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
from tests.support.programs import compiled

pytestmark = pytest.mark.usefixtures("float64")
ACCURACY = 1e-10
NORMS = {  # some of the model's five examples have a larger gradient, some a smaller
    "mlp": 1.1,
    "sequence": 6.0,
    "stack": 0.8,
    "conv": 5.0,
    "transposed": 2.0,
    "norms": 1.0,
    "embedding": 3.0,
    "lstm": 2.0,
    "gru": 0.8,
    "tied": 1.25,
}
EACH = pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in PER_EXAMPLE if name != "mlp")]
)


@cache
def measured(name):
    """Everything about the model in one compiled program: ours, and each example's gradient by vmap(jax.grad)."""
    model, loss, params, batch = setting(name)

    @jax.jit
    def run(params, batch):
        clipped = lambda norm, *words: per_example.clipped_gradient(model, loss, norm, *words)(params, batch)
        return {
            "gradients": jax.vmap(jax.grad(example_loss(model, loss)), (None, 0))(params, batch),
            "norms": per_example.squared_norms(model, loss)(params, batch),
            "products": per_example.inner_products(model, loss)(params, batch),
            "moment": per_example.second_moment(model, loss)(params, batch),
            "recomputed": clipped(NORMS[name], "sum", "recomputed"),
            "kept": clipped(NORMS[name], "sum", "kept"),
            "mean": clipped(NORMS[name], "mean"),
            "not clipped": clipped(1e9, "sum", "kept"),
            "plain": jaxbp.value_and_grad(model, loss)(params, batch),
        }

    return run(params, batch)


def example_loss(model, loss):
    """(params, example) -> its loss, for an example without batch axis."""

    def run(params, example):
        batch = jax.tree.map(lambda a: a[None], example)
        y = model.forward(params, batch["x"], jaxbp.Context())[0]
        return loss.forward(y, batch["y"], batch["weight"])[0]

    return run


def flat(gradients):
    """[N, P]."""
    return jnp.concatenate([g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)], 1)


@EACH
def test_squared_norms_of_every_leaf(name):
    expected = jax.tree.map(lambda g: jnp.sum(g * g, range(1, g.ndim)), measured(name)["gradients"])
    assert worst(measured(name)["norms"], expected) <= ACCURACY


@EACH
def test_inner_products_and_cosines(name):
    products = measured(name)["products"]
    g = flat(measured(name)["gradients"])
    assert worst(products, g @ g.T) <= ACCURACY
    unit = g / jnp.linalg.norm(g, axis=1, keepdims=True)
    assert worst(per_example.cosines(products), unit @ unit.T) <= ACCURACY


@EACH
def test_second_moment(name):
    expected = jax.tree.map(lambda g: jnp.sum(g * g, 0), measured(name)["gradients"])
    assert worst(measured(name)["moment"], expected) <= ACCURACY


@EACH
def test_clipping_is_the_sum_of_clipped_gradients(name):
    results = measured(name)
    norms = jnp.linalg.norm(flat(results["gradients"]), axis=1)
    assert norms.min() < NORMS[name] < norms.max()  # some are clipped and some are not
    scale = jnp.minimum(1, NORMS[name] / norms)
    expected = jax.tree.map(lambda g: jnp.tensordot(scale, g, 1), results["gradients"])
    for memory in ("recomputed", "kept"):
        assert worst(results[memory].grads, expected) <= ACCURACY
        assert worst(results[memory].norms, norms) <= ACCURACY
        assert results[memory].value == results["plain"].value
    assert worst(results["mean"].grads, jax.tree.map(lambda g: g / 5, expected)) <= ACCURACY
    assert worst(results["not clipped"].grads, results["plain"].grads) <= ACCURACY


def test_clipping_is_that_of_optax_given_all_gradients():
    aggregate = optax.contrib.differentially_private_aggregate(NORMS["mlp"], 0.0, jax.random.key(0))
    expected, _ = aggregate.update(measured("mlp")["gradients"], aggregate.init(setting("mlp")[2]))
    assert worst(measured("mlp")["mean"].grads, expected) <= 1e-6


@EACH
def test_groups_and_the_spread_between_examples(name):
    g = flat(measured(name)["gradients"])
    groups = jnp.arange(len(g)) % 2
    sums = jnp.stack([g[groups == k].sum(0) for k in range(2)])
    assert worst(per_example.grouped(measured(name)["products"], groups, 2), sums @ sums.T) <= ACCURACY
    single = jax.tree.map(lambda g: len(g) * g, measured(name)["gradients"])  # as if with weights of 1 / N
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), single)
    variance = jax.tree.map(lambda g: jnp.var(g, 0, ddof=1), single)
    assert worst(per_example.variance(measured(name)["moment"], mean, len(g)), variance) <= ACCURACY
    ratio = jax.tree.map(lambda m, v: jnp.where(m == 0, 0, m * m / v), mean, variance)
    assert worst(per_example.signal_to_noise(mean, variance), ratio) <= ACCURACY


def test_a_gradient_of_zero_stays_zero():
    model, loss, params, batch = setting("mlp")
    weightless = batch | {"weight": jnp.zeros(5)}
    grads = per_example.clipped_gradient(model, loss, 1.0, "sum")(params, weightless).grads
    assert not any(np.any(g) for g in jax.tree.leaves(grads))
    assert not np.any(per_example.cosines(per_example.inner_products(model, loss)(params, weightless)))


def test_noise_scale_of_gradients_that_are_known():
    """Both estimates are unbiased: their means over many batches of 4 are the population's."""
    random = np.random.default_rng(0)
    true, spread, n = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 0.1]), 4
    gradients = true + spread * random.normal(size=(20_000, n, 3))
    noise = jax.vmap(lambda g: per_example.noise(jnp.sum((g / n) ** 2, 1), [g.mean(0)]))(jnp.asarray(gradients))
    assert abs(noise.variance.mean() / np.sum(spread**2) - 1) < 0.02
    assert abs(noise.signal.mean() / np.sum(true**2) - 1) < 0.03
    mean = per_example.Noise(noise.variance.mean(), noise.signal.mean())
    assert abs(mean.scale / (np.sum(spread**2) / np.sum(true**2)) - 1) < 0.05


@pytest.mark.parametrize(
    "quantity",
    [
        per_example.squared_norms,
        per_example.inner_products,
        per_example.second_moment,
        partial(per_example.clipped_gradient, norm=1.0, reduction="sum"),
    ],
)
def test_layers_that_mix_the_examples_are_refused(quantity):
    model = jaxbp.Chain((jaxbp.Dense(3), jaxbp.BatchNorm(), jaxbp.Dense(1)))
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((5, 2), jnp.float64))
    batch = {"x": jnp.ones((5, 2)), "y": jnp.ones((5, 1)), "weight": jnp.ones(5)}
    line = "^01_batchnorm: per-example gradients are undefined here: 'batchnorm' mixes the examples of a batch$"
    with pytest.raises(jaxbp.InputError, match=line):
        quantity(model, SquaredError())(params, batch)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((0, "sum"), "clipped_gradient: norm must be above 0, got 0"),
        ((1, "men"), "unknown clipped_gradient reduction 'men'; did you mean 'mean'"),
        ((1, "sum", "kep"), "unknown clipped_gradient memory 'kep'; did you mean 'kept'"),
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
    model, shape = NETS[name]
    loss, ones = SoftmaxCrossEntropy(), partial(jnp.ones, dtype=jnp.float32)
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((rows, *shape), jnp.float32))
    batch = {"x": ones((rows, *shape)), "y": jnp.zeros(rows, jnp.int32), "weight": ones(rows)}
    memory = lambda f: compiled(jax.jit(f).lower(params, batch)).memory_analysis()
    plain = memory(jaxbp.value_and_grad(model, loss)).temp_size_in_bytes
    norms = memory(per_example.squared_norms(model, loss)).temp_size_in_bytes
    assert norms <= 1.6 * plain
    for kind in ("kept", "recomputed"):
        assert memory(per_example.clipped_gradient(model, loss, 1.0, "sum", kind)).temp_size_in_bytes <= 1.6 * plain
    if name == "mlp":
        gradients = memory(jax.vmap(jax.grad(example_loss(model, loss)), (None, 0)))
        assert norms <= (gradients.temp_size_in_bytes + gradients.output_size_in_bytes) / 100
