"""Initializers: names, shapes, the published variances, determinism; and the symmetry that constants never break."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Dense, InputError, SquaredError, Tanh, value_and_grad
from jaxbp.inits import NAMED, Constant, Normal, Uniform, initializer

KEY = jax.random.key(0)
FAN_IN, FAN_OUT = 500, 200
VARIANCE = {  # of a weight [O, I]
    "lecun_normal": 1 / FAN_IN,
    "lecun_uniform": 1 / FAN_IN,
    "glorot_normal": 2 / (FAN_IN + FAN_OUT),
    "glorot_uniform": 2 / (FAN_IN + FAN_OUT),
    "xavier_normal": 2 / (FAN_IN + FAN_OUT),
    "xavier_uniform": 2 / (FAN_IN + FAN_OUT),
    "he_normal": 2 / FAN_IN,
    "he_uniform": 2 / FAN_IN,
    "kaiming_normal": 2 / FAN_IN,
    "kaiming_uniform": 2 / FAN_IN,
    "normal": 1.0,
    "uniform": 1 / 12,
    "zeros": 0.0,
    "ones": 0.0,
}
MEAN = {"uniform": 0.5, "ones": 1.0}
EVERY = pytest.mark.parametrize("name", NAMED)


@functools.cache
def drawn(shape, wide=False):
    """Every name's array of this shape; one program, in which all draw the same bits."""
    axes = {"in_axis": -2, "out_axis": -1} if len(shape) > 1 else {"in_axis": -1, "out_axis": -1}
    with jax.enable_x64(wide):
        return jax.jit(lambda: {name: init(KEY, shape, **axes) for name, init in NAMED.items()})()


@functools.partial(jax.jit, static_argnums=(0, 1))
def weights(inits, shape, key=KEY):
    """A dense layer's weight [O, I] from each initializer."""
    return [Dense(shape[0], w_init=init).init(key, jaxbp.shaped(1, shape[1]))["w"] for init in inits]


@pytest.fixture(scope="module")
def large():
    """Name -> weight of a large layer, in float64."""
    drawn = weights(tuple(NAMED), (FAN_OUT, FAN_IN))
    return {name: np.asarray(w, np.float64) for name, w in zip(NAMED, drawn, strict=True)}


@EVERY
@pytest.mark.parametrize("shape", [(7, 3), (5, 7, 2, 3), (7,)], ids=str)
def test_draws_finite_float32_of_the_shape(name, shape):
    """A bias, which has one axis, included."""
    w = drawn(shape)[name]
    assert (w.shape, w.dtype) == (shape, jnp.float32)
    assert np.isfinite(w).all()


@EVERY
def test_draws_float32_where_float64_is_enabled(name):
    assert drawn((7, 3), wide=True)[name].dtype == jnp.float32


def test_every_name_has_a_variance():
    assert VARIANCE.keys() == NAMED.keys()


@EVERY
def test_variance(name, large):
    """100,000 draws: the variance of a normal sample is known to 0.45 %, so 5 % is eleven standard deviations."""
    w = large[name]
    np.testing.assert_allclose(w.var(), VARIANCE[name], rtol=0.05)
    assert abs(w.mean() - MEAN.get(name, 0.0)) <= 5 * math.sqrt(VARIANCE[name] / w.size)


@pytest.mark.parametrize("name", [name for name in NAMED if "_" in name])
def test_range(name, large):
    """Uniform to sqrt(3) standard deviations; normal cut at 2 sigma, which leaves 0.8796 of sigma."""
    w = np.abs(large[name]) / math.sqrt(VARIANCE[name])
    edge = math.sqrt(3) if name.endswith("uniform") else 2 / 0.87962566
    assert 0.98 * edge < w.max() <= edge * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("xavier_normal", "glorot_normal"),
        ("xavier_uniform", "glorot_uniform"),
        ("kaiming_normal", "he_normal"),
        ("kaiming_uniform", "he_uniform"),
    ],
)
def test_two_names_of_one_rule(name, other):
    assert NAMED[name] == NAMED[other]


def test_a_pure_function_of_the_key():
    draw = lambda seed: weights(tuple(NAMED), (7, 3), jax.random.key(seed))
    for name, w, again, other in zip(NAMED, draw(0), draw(0), draw(1), strict=True):
        np.testing.assert_array_equal(w, again)
        assert np.array_equal(w, other) == (name in ("zeros", "ones")), name


def test_values_with_settings():
    normal, uniform, constant = weights((Normal(0.1, mean=3), Uniform(-2, 5), Constant(0.25)), (FAN_OUT, FAN_IN))
    np.testing.assert_allclose([normal.mean(), normal.std()], [3, 0.1], rtol=0.05)
    np.testing.assert_allclose([uniform.min(), uniform.max()], [-2, 5], rtol=0.01)
    assert (uniform >= -2).all()
    assert (uniform < 5).all()
    assert (constant == 0.25).all()


def test_a_value_is_its_own_initializer():
    init = Normal(0.5)
    assert initializer(init) is init
    assert initializer("he_normal") is NAMED["he_normal"]
    assert eval(repr(Dense(3, w_init=init)), vars(jaxbp) | {"Normal": Normal}) == Dense(3, w_init=init)


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("he_norml", "he_normal"),
        ("kaiming_unifrom", "kaiming_uniform"),
        ("xavier", "xavier_normal"),
        ("zero", "zeros"),
        ("glorot-normal", "glorot_normal"),
        ("Uniform", "uniform"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(misspelt, nearest):
    with pytest.raises(InputError, match=f"unknown initializer '{misspelt}'; did you mean '{nearest}'") as error:
        initializer(misspelt)
    assert all(name in str(error.value) for name in NAMED)
    with pytest.raises(InputError, match=nearest):
        Dense(3, w_init=misspelt)


# --- Symmetry --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def descend(model, params, batch):
    gradient = value_and_grad(model, SquaredError())
    step = lambda _, params: jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient(params, batch).grads)
    return jax.lax.fori_loop(0, 50, step, params)


def trained(w_init, b_init):
    """(before, after): parameters of a 3-4-2 tanh net, and 50 steps later."""
    random = np.random.default_rng(0)
    batch = {"x": random.normal(size=(7, 3)), "y": random.normal(size=(7, 2)), "weight": np.full(7, 1 / 7)}
    model = Chain((Dense(4), Tanh(), Dense(2)))  # one program for all initializers
    drawn = Chain((Dense(4, w_init=w_init, b_init=b_init), Tanh(), Dense(2, w_init=w_init, b_init=b_init)))
    before = drawn.init(KEY, jaxbp.shaped(7, 3))
    return before, descend(model, before, jaxbp.cast(jax.tree.map(jnp.asarray, batch), jnp.float32))


def hidden_units(params):
    """[unit, what belongs to it]: its weights, its bias and the weights that leave it."""
    first, last = params["00_dense"], params["02_dense"]
    return np.concatenate([first["w"], first["b"][:, None], last["w"].T], axis=1)


@pytest.mark.parametrize("init", ["zeros", "ones", Constant(0.3), Constant(-0.7)], ids=str)
@pytest.mark.parametrize("b_init", ["zeros", "ones"])
def test_equal_hidden_units_stay_equal(init, b_init):
    before, after = trained(init, b_init)
    units = hidden_units(after)
    np.testing.assert_array_equal(units, np.broadcast_to(units[0], units.shape))
    assert not np.array_equal(after["02_dense"]["b"], before["02_dense"]["b"]), "it does train"
    stuck = init == "zeros" and b_init == "zeros"  # no activation and no weight: only the output bias has a gradient
    assert np.array_equal(units, hidden_units(before)) == stuck


def test_random_hidden_units_differ():
    _, after = trained("glorot_normal", "zeros")
    units = hidden_units(after)
    assert min(np.abs(units[i] - units[j]).max() for i in range(4) for j in range(i)) > 0.1
