"""Pooling: ties and nan as JAX decides them, every kind of window at once, PyTorch beside it, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.errors import InputError
from jaxbp.layers.pooling import distinct
from tests.support.marks import but_at_night
from tests.support.programs import compiled

CONTEXT = jaxbp.Context()
SHAPE = (2, 7, 6, 3)
FEW = [((2, 2), None, "SAME"), ((3, 2), (2, 1), ((2, 1), (0, 1)))]  # (window, strides, padding)
MORE = [
    ((2, 3), None, "SAME"),
    ((2, 2), None, "VALID"),
    ((2, 2), (1, 1), ((1, 0), (0, 1))),
    ((3, 3), (2, 2), "SAME"),
    ((1, 2), (3, 3), "VALID"),
    ((7, 6), None, "VALID"),
    ((3, 3), (1, 1), "SAME"),
    ((2, 2), (3, 1), "SAME"),
    ((3, 2), (4, 1), "VALID"),
]


def reduce_window(window, strides, padding):
    """JAX's own max pooling, as a function of x."""
    padding = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    sizes = (1, *window, 1), (1, *(strides or window), 1)
    return lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *sizes, padding)


def both(layer, reference, x, dy_key=9):
    """((y, dx) of the layer, those of jax.vjp of the reference)."""
    y, back = jax.vjp(reference, x)
    dy = jax.random.normal(jax.random.key(dy_key), y.shape, y.dtype)
    y_ours, cache = layer.forward({}, x, CONTEXT)
    return (y_ours, layer.backward({}, cache, dy)[0]), (y, back(dy)[0])


@pytest.mark.slow
@pytest.mark.parametrize("windows", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"])
def test_max_is_reduce_window_and_its_derivative(strict, windows):
    """Also where entries are equal (the first gets all), nan or infinite: all of it in one program."""
    key = jax.random.key(0)
    x = jnp.concatenate(
        [
            distinct(key, jax.ShapeDtypeStruct(SHAPE, jnp.float64)),
            jax.random.randint(key, SHAPE, 0, 3).astype(jnp.float64),
            jnp.full(SHAPE, -2.5, jnp.float64),
            jnp.where(jax.random.bernoulli(key, 0.2, SHAPE), jnp.nan, jax.random.normal(key, SHAPE, jnp.float64)),
            jnp.array([-jnp.inf, 1, jnp.inf], jnp.float64)[jax.random.randint(key, SHAPE, 0, 3)],
        ]
    )

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
    def everything(x):
        return [both(jaxbp.MaxPool(*how), reduce_window(*how), x) for how in windows]

    for how, ((y, dx), (y_jax, dx_jax)) in zip(windows, everything(x), strict=True):
        np.testing.assert_array_equal(y, y_jax, err_msg=str(how))
        np.testing.assert_allclose(dx, dx_jax, rtol=1e-14, atol=1e-14, err_msg=str(how))


def test_the_first_of_equal_entries_gets_the_whole_delta():
    _, cache = jaxbp.MaxPool((2, 2)).forward({}, jnp.ones((1, 2, 4, 1)), CONTEXT)
    dx, _ = jaxbp.MaxPool((2, 2)).backward({}, cache, jnp.array([3.0, 5.0]).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(dx[0, :, :, 0], [[3, 0, 5, 0], [0, 0, 0, 0]])
    x = jnp.zeros((2, 3, 5, 2))
    _, cache = jaxbp.GlobalMaxPool().forward({}, x, CONTEXT)
    dx, _ = jaxbp.GlobalMaxPool().backward({}, cache, jnp.ones((2, 2)))
    np.testing.assert_array_equal(dx, x.at[:, 0, 0].set(1))


@pytest.mark.parametrize("kind", ["distinct", "few values"])
def test_global_max_is_the_largest_window(strict, kind):
    key = jax.random.key(1)
    x = distinct(key, jax.ShapeDtypeStruct(SHAPE, jnp.float64))
    x = x if kind == "distinct" else jnp.round(x)
    ours, jaxs = both(jaxbp.GlobalMaxPool(), lambda x: reduce_window((7, 6), None, "VALID")(x)[:, 0, 0], x)
    assert worst(ours, jaxs) == 0
    y, _ = jaxbp.GlobalMaxPool().forward({}, x.at[0, 1, 2, 0].set(jnp.nan), CONTEXT)
    assert np.isnan(y).sum() == 1


def test_max_keeps_one_byte_an_output():
    for window, dtype in (((2, 2), jnp.uint8), ((16, 16), jnp.uint8), ((17, 16), jnp.uint16)):
        x = jax.ShapeDtypeStruct((2, 34, 32, 3), jnp.float32)
        y, (winner, _) = jax.eval_shape(lambda x, layer=jaxbp.MaxPool(window): layer.forward({}, x, CONTEXT), x)
        assert (winner.shape, winner.dtype) == (y.shape, dtype)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_average_is_the_same_for_every_rank(strict, rank):
    """Constant along all axes but the first: any rank gives the average along that axis."""
    line = jax.random.normal(jax.random.key(2), (2, 9, 1), jnp.float64)
    x = jnp.broadcast_to(line.reshape(2, 9, *[1] * (rank - 1), 1), (2, 9, *[4] * (rank - 1), 1))
    pool = lambda rank: jaxbp.AveragePool((3, 2, 2)[:rank], (2, 1, 1)[:rank], "SAME", count_padding=False)
    y = pool(rank).forward({}, x, CONTEXT)[0]
    y_line = pool(1).forward({}, line, CONTEXT)[0]
    np.testing.assert_allclose(y.reshape(2, 5, -1)[:, :, 0], y_line[:, :, 0], rtol=1e-14)


def test_padding_is_counted_or_not():
    x, middle = jnp.ones((1, 4, 4, 1)), np.s_[0, 1:3, 1:3, 0]
    for count_padding, corner in ((True, 4 / 9), (False, 1)):
        pool = jaxbp.AveragePool((3, 3), (1, 1), "SAME", count_padding)
        y, cache = pool.forward({}, x, CONTEXT)
        np.testing.assert_allclose(y[0, 0, 0, 0], corner, rtol=1e-6)
        np.testing.assert_allclose(y[middle], 1, rtol=1e-6)
        assert pool.backward({}, cache, y)[0].shape == x.shape


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: jaxbp.MaxPool((0, 2)), "MaxPool: window must be a tuple of one size of at least 1 .* got \\(0, 2\\)"),
        (lambda: jaxbp.MaxPool(2), "MaxPool: window must be a tuple"),
        (lambda: jaxbp.AveragePool(()), "AveragePool: window must be a tuple"),
        (lambda: jaxbp.MaxPool((2, 2), (1,)), "MaxPool: strides must be .* got \\(1,\\) with window \\(2, 2\\)"),
        (lambda: jaxbp.MaxPool((2, 2), padding="FULL"), "MaxPool: padding must be 'VALID', 'SAME' .* got 'FULL'"),
        (lambda: jaxbp.MaxPool((2, 2), padding=((0, 0), (0, 2))), "MaxPool: padding must be .* the window's size - 1"),
        (lambda: jaxbp.MaxPool((2, 2), padding=((0, 0),)), "MaxPool: padding must be"),
        (lambda: jaxbp.MaxPool((2,)).forward({}, jnp.ones(SHAPE), CONTEXT), "window \\(2,\\) needs inputs"),
        (
            lambda: jaxbp.AveragePool((8, 2)).forward({}, jnp.ones(SHAPE), CONTEXT),
            "\\(8, 2\\) is larger than the image",
        ),
    ],
)
def test_bad_input_is_one_clear_line(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.slow
def test_never_larger_than_autodiff():
    """Temporary bytes of forward and backward together, beside jax.grad of the same forward and of reduce_window."""
    x = jax.ShapeDtypeStruct((8, 28, 27, 16), jnp.float32)

    def temp(f, layer):
        dy = jax.eval_shape(lambda x: layer.forward({}, x, CONTEXT)[0], x)
        return compiled(jax.jit(f).lower(x, dy)).memory_analysis().temp_size_in_bytes

    def hand(layer):
        return temp(lambda x, dy: layer.backward({}, layer.forward({}, x, CONTEXT)[1], dy)[0], layer)

    def auto(layer, f=None):
        f = f or (lambda x: layer.forward({}, x, CONTEXT)[0])
        return temp(lambda x, dy: jax.vjp(f, x)[1](dy)[0], layer)

    for how in (((2, 3),), ((3, 3), (2, 2)), ((3, 3), (1, 1), "SAME")):
        layer = jaxbp.MaxPool(*how)
        assert hand(layer) < auto(layer, reduce_window(layer.window, layer.steps, layer.padding))
    assert hand(jaxbp.GlobalMaxPool()) <= auto(jaxbp.GlobalMaxPool())
    assert hand(jaxbp.GlobalAveragePool()) <= auto(jaxbp.GlobalAveragePool())


@pytest.mark.slow
@pytest.mark.parametrize("rank", but_at_night([1, 2, 3], 3))
def test_against_pytorch(strict, rank):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0 for this oracle")
    ours, theirs = (jaxbp.MaxPool, "max"), (jaxbp.AveragePool, "avg")
    for (make, name), (window, stride, pad) in itertools.product((ours, theirs), ((2, 2, 0), (3, 2, 1), (3, 1, 1))):
        x = distinct(jax.random.key(rank), jax.ShapeDtypeStruct((2, *(7, 5, 6)[:rank], 3), jnp.float64))
        there = torch.tensor(np.moveaxis(np.asarray(x), -1, 1), requires_grad=True)
        counted = [{"count_include_pad": flag} for flag in (True, False)] if name == "avg" else [{}]
        for options in counted:
            layer = make((window,) * rank, (stride,) * rank, ((pad, pad),) * rank, *options.values())
            y = getattr(torch.nn.functional, f"{name}_pool{rank}d")(there, window, stride, pad, **options)
            dy = torch.randn(y.shape, dtype=y.dtype)
            there.grad = None
            y.backward(dy)
            back = lambda a: jnp.asarray(np.moveaxis(a.detach().numpy(), 1, -1))
            y_ours, cache = layer.forward({}, x, CONTEXT)
            dx, _ = layer.backward({}, cache, back(dy))
            assert worst((y_ours, dx), (back(y), back(there.grad))) <= FLOAT64_TOLERANCE, (layer, options)
