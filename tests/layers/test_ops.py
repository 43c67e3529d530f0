"""Operations for any JAX code: each the vjp of a formula in JAX's words, in every dtype, under every transform."""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxbp import ops
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.core import cast
from jaxbp.errors import InputError

pytestmark = pytest.mark.slow

ROWS = 4


@dataclass(frozen=True)
class Operation:
    """An operation on arrays of `shapes`, the first with the batch in front, beside the same in JAX's own words.

    batched: how many of the arguments, from the first, have the batch in front. sample: makes the first argument of
    normal numbers, for operations on some matrices only.
    """

    formula: object
    shapes: tuple
    settings: dict = field(default_factory=dict)
    before: tuple = ()  # arguments that are no arrays, before the arrays
    batched: int = 1
    sample: object = lambda a: a


def plain_attention(weighting, q, k, v, valid=None, seeds=None, bias=None):
    """In float64, which JAX's own attention is not."""
    k, v = (jnp.repeat(a, q.shape[2] // a.shape[2], 2) for a in (k, v))
    z = jnp.einsum("nthd,nshd->nhts", q, k) / q.shape[-1] ** 0.5 + (0 if bias is None else bias)
    seen = jnp.tril(jnp.ones(z.shape[-2:], bool))
    return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(jnp.where(seen, z, -jnp.inf), -1), v)


def plain_rotary(x, base):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * base ** (-jnp.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * jnp.exp(1j * angle)[:, None]
    return jnp.concatenate([turned.real, turned.imag], -1)


def plain_layer_norm(x, scale, bias, epsilon=1e-5):
    return jax.nn.standardize(x, -1, epsilon=epsilon) * scale + bias


def plain_lstm(x, wx, wh, b, initial):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ wx.T + h @ wh.T + b, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = tuple(jnp.broadcast_to(s, (len(x), s.shape[-1])) for s in initial)
    return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1], 0, 1)


def plain_gru(x, wx, wh, b, bh):
    def step(h, x):
        ar, au, an = jnp.split(x @ wx.T + b, 3, -1)
        hr, hu, hn = jnp.split(h @ wh.T, 3, -1)
        r, u = jax.nn.sigmoid(ar + hr), jax.nn.sigmoid(au + hu)
        n = jnp.tanh(an + r * (hn + bh))
        h = n + u * (h - n)
        return h, h

    start = jnp.zeros((len(x), wh.shape[1]), x.dtype)
    return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1], 0, 1)


def plain_conv(x, w, strides=1, padding="SAME"):
    return jax.lax.conv_general_dilated(x, w, (strides, strides), padding, dimension_numbers=("NHWC", "OHWI", "NHWC"))


def plain_conv_transpose(x, w, strides, padding):
    w = jnp.moveaxis(w, 0, -1)[::-1, ::-1]
    return jax.lax.conv_transpose(x, w, (strides, strides), padding)


def plain_pool(x, window, largest):
    windows = (1, *window, 1)
    if largest:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, windows, windows, "VALID")
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, windows, windows, "VALID") / np.prod(window)


def plain_spectral(g):
    """V g(w) V^T by JAX's own eigh."""

    def run(a):
        w, v = jnp.linalg.eigh(a)
        return jnp.einsum("nik,nk,njk->nij", v, g(w), v)

    return run


def plain_sylvester(a, b, c):
    """By the Kronecker sum A (x) I + I (x) B^T of the rows of X."""
    eye = lambda m: jnp.broadcast_to(jnp.eye(m.shape[-1], dtype=m.dtype), m.shape)
    kron = lambda a, b: jnp.einsum("nij,nkl->nikjl", a, b).reshape(len(a), c[0].size, c[0].size)
    whole = kron(a, eye(b)) + kron(eye(a), jnp.swapaxes(b, 1, 2))
    return jnp.linalg.solve(whole, c.reshape(len(c), -1, 1)).reshape(c.shape)


def plain_polar(a):
    u, s, v = jnp.linalg.svd(a, full_matrices=False)
    return u @ v, jnp.einsum("nki,nk,nkj->nij", v, s, v)


def covariance(a):
    """Positive definite."""
    wide = a.astype(np.float64)
    return (wide @ np.swapaxes(wide, -1, -2) / a.shape[-1] + np.eye(a.shape[-1])).astype(a.dtype)


def near_identity(a):
    """Far from singular."""
    return (a / 4 + np.eye(*a.shape[-2:])).astype(a.dtype)


causal = (ops.Weighting(causal=True),)
chunked = (ops.Weighting(causal=True, form="chunked", block=3),)
heads = ((ROWS, 7, 4, 6), (ROWS, 7, 2, 6), (ROWS, 7, 2, 6))
TABLE = {
    "attention": Operation(plain_attention, heads, before=causal, batched=3),
    "attention chunked": Operation(plain_attention, heads, before=chunked, batched=3),
    "rotary": Operation(plain_rotary, ((ROWS, 7, 2, 6),), {"base": 100.0}),
    "softmax": Operation(jax.nn.softmax, ((ROWS, 3, 7),), {"axis": -1}),
    "log_softmax": Operation(jax.nn.log_softmax, ((ROWS, 3, 7),), {"axis": 1}),
    "layer_norm": Operation(plain_layer_norm, ((ROWS, 3, 7), (7,), (7,))),
    "rms_norm": Operation(
        lambda x, scale: x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale, ((ROWS, 3, 7), (7,))
    ),
    "swiglu": Operation(lambda a, b: jax.nn.silu(a) * b, ((ROWS, 7), (ROWS, 7)), batched=2),
    "geglu": Operation(lambda a, b: jax.nn.gelu(a, approximate=False) * b, ((ROWS, 7), (ROWS, 7)), batched=2),
    "lstm": Operation(plain_lstm, ((ROWS, 5, 3), (8, 3), (8, 2), (8,), (2, 2))),
    "gru": Operation(plain_gru, ((ROWS, 5, 3), (6, 3), (6, 2), (6,), (2,))),
    "conv": Operation(plain_conv, ((ROWS, 7, 5, 2), (3, 3, 2, 2)), {"strides": 2}),
    "conv_transpose": Operation(
        plain_conv_transpose, ((ROWS, 4, 3, 2), (3, 2, 2, 2)), {"strides": 2, "padding": "VALID"}
    ),
    "max_pool": Operation(functools.partial(plain_pool, largest=True), ((ROWS, 4, 6, 2),), {"window": (2, 3)}),
    "sqrtm_psd": Operation(plain_spectral(jnp.sqrt), ((ROWS, 3, 3),), sample=covariance),
    "sqrtm_psd products": Operation(
        lambda a, form: plain_spectral(jnp.sqrt)(a), ((ROWS, 3, 3),), {"form": "products"}, sample=covariance
    ),
    "logm_psd": Operation(plain_spectral(jnp.log), ((ROWS, 3, 3),), sample=covariance),
    "spectral": Operation(
        lambda a, function, floor: plain_spectral(lambda w: jnp.maximum(w, floor) ** function)(a),
        ((ROWS, 3, 3),),
        {"function": 1.5, "floor": 1.1},
        sample=covariance,
    ),
    "cholesky": Operation(jnp.linalg.cholesky, ((ROWS, 3, 3),), sample=covariance),
    "logdet": Operation(lambda a: jnp.linalg.slogdet(a)[1], ((ROWS, 3, 3),), sample=near_identity),
    "solve": Operation(jnp.linalg.solve, ((ROWS, 3, 3), (ROWS, 3, 2)), batched=2, sample=near_identity),
    "expm": Operation(jax.scipy.linalg.expm, ((ROWS, 3, 3),)),
    "pinv": Operation(jnp.linalg.pinv, ((ROWS, 4, 3),), sample=near_identity),
    "polar": Operation(plain_polar, ((ROWS, 4, 3),), sample=near_identity),
    "qr": Operation(lambda a: tuple(jnp.linalg.qr(a)), ((ROWS, 4, 3),), sample=near_identity),
    "sylvester": Operation(plain_sylvester, ((ROWS, 3, 3), (ROWS, 2, 2), (ROWS, 3, 2)), batched=3, sample=covariance),
    "average_pool": Operation(functools.partial(plain_pool, largest=False), ((ROWS, 4, 6, 2),), {"window": (2, 3)}),
}


def test_every_operation_is_in_the_table():
    assert {name.split()[0] for name in TABLE} | {"Weighting", "linear_cross_entropy"} >= set(ops.__all__)
    for name in ops.__all__:
        assert callable(getattr(ops, name)), name
        assert getattr(ops, name).__doc__, name


def arrays(operation, dtype, seed=0):
    """Normal arguments."""
    draw = np.random.default_rng(seed)
    first, *others = [draw.normal(size=shape) for shape in operation.shapes]
    return [jnp.asarray(a, dtype) for a in (operation.sample(first), *others)]


def deltas(y, dtype=None):
    """Normal numbers of the outputs' shapes."""
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), dtype or s.dtype), y)


def function(name):
    """The operation with its settings, of arrays alone."""
    operation = TABLE[name]
    return lambda *a: getattr(ops, name.split()[0])(*operation.before, *a, **operation.settings)


def pulled(f):
    """(arguments, delta) -> (value, gradients) of a function."""

    def run(a, dy):
        y, vjp = jax.vjp(f, *a)
        return y, vjp(dy)

    return run


for_all = pytest.mark.parametrize("name", TABLE)
SAME_KIND = ("logm_psd", "spectral", "logdet", "pinv", "qr")  # as sqrtm_psd, solve and polar
for_kinds = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly) if name in SAME_KIND else name for name in TABLE]
)


@for_all
def test_value_and_gradient_are_those_of_the_formula(float64, name):
    operation = TABLE[name]
    a = arrays(operation, jnp.float64)
    plain = lambda *a: operation.formula(*operation.before, *a, **operation.settings)
    dy = deltas(jax.eval_shape(plain, *a))
    ours, theirs = jax.jit(lambda a, dy: (pulled(function(name))(a, dy), pulled(plain)(a, dy)))(a, dy)
    assert worst(ours, theirs) <= FLOAT64_TOLERANCE


@for_all
def test_integers_are_refused(name):
    """A result in their type would be cut off: a softmax of zeros."""
    with pytest.raises(InputError, match=r"must be of floating-point numbers, got int32\["):
        function(name)(*arrays(TABLE[name], jnp.int32))


@for_kinds
def test_every_transform_gives_the_same(float64, name):
    """vmap, scan over examples, remat, a gradient of a gradient's norm, and rows on two devices: one program."""
    operation = TABLE[name]
    a = arrays(operation, jnp.float64)
    f = function(name)
    run = pulled(f)
    dy = deltas(jax.eval_shape(f, *a))
    batched, shared = a[: operation.batched], a[operation.batched :]
    alone = lambda *b: jax.tree.map(lambda x: x[None], b)

    def example(b, dy):
        """Of one example, its own gradient of the shared arguments too."""
        y, gradients = run([*alone(*b), *shared], jax.tree.map(lambda d: d[None], dy))
        own = [g[0] for g in gradients[: operation.batched]]
        return jax.tree.map(lambda y: y[0], y), (*own, *gradients[operation.batched :])

    def together(by_example):
        y, gradients = by_example
        own = gradients[: operation.batched]
        return y, (*own, *(jnp.sum(g, 0) for g in gradients[operation.batched :]))

    @jax.jit
    def everything(a, dy):
        examples = a[: operation.batched], dy
        return {
            "plain": run(a, dy),
            "vmap": together(jax.vmap(example)(*examples)),
            "scan": together(jax.lax.scan(lambda _, b: (None, example(*b)), None, examples)[1]),
            "remat": pulled(jax.checkpoint(f))(a, dy),
        }

    results = everything(a, dy)
    expected = results.pop("plain")
    assert {how: worst(result, expected) for how, result in results.items() if worst(result, expected) > 1e-11} == {}
    rows = NamedSharding(jax.sharding.Mesh(jax.devices()[:2], "n"), PartitionSpec("n"))
    spread = [jax.device_put(b, rows) for b in batched]
    assert worst(jax.jit(run)([*spread, *shared], jax.device_put(dy, rows)), expected) <= 1e-11


@for_all
def test_dtypes_stay(name):
    """Outputs and gradients have the dtype of the arguments; in bfloat16 they are those of float32 up to rounding."""
    f = function(name)
    for dtype in (jnp.float32, jnp.float16):
        a = [jax.ShapeDtypeStruct(shape, dtype) for shape in TABLE[name].shapes]
        y = jax.eval_shape(f, *a)
        assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(pulled(f), a, y))} == {jnp.dtype(dtype)}
    a = arrays(TABLE[name], jnp.bfloat16)
    dy = deltas(y, jnp.bfloat16)
    both = jax.jit(lambda a, dy: (pulled(f)(a, dy), pulled(f)(*cast((a, dy), jnp.float32))))
    half, exact = both(a, dy)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    assert worst(cast(half, jnp.float32), exact) <= 8 * jnp.finfo(jnp.bfloat16).eps


@pytest.mark.parametrize("form", ["stored", "chunked"])
@pytest.mark.parametrize(
    "shapes",
    [
        {"k": (2, 5, 2, 3)},
        {"k": (2, 7, 1, 3)},
        {"k": (2, 7, 3, 3), "v": (2, 7, 3, 3)},
        {"v": (2, 7, 2, 5)},
        {"valid": (2, 5)},
        {"valid": (2, 8)},
        {"valid": (2,)},
        {"bias": (1, 4, 6, 5)},
        {"bias": (1, 2, 6, 7)},
        {"bias": (1, 4, 9)},
        {"bias": (6, 7)},
    ],
    ids=str,
)
def test_attention_refuses_shapes_that_do_not_fit(form, shapes):
    fitting = {"q": (2, 6, 4, 3), "k": (2, 7, 2, 3), "v": (2, 7, 2, 3), "valid": (1, 7), "bias": (1, 4, 12)}
    weighting = ops.Weighting(form=form, block=3)
    ops.attention(weighting, **{name: jnp.ones(shape) for name, shape in fitting.items()})
    with pytest.raises(InputError, match="do not fit: got"):
        ops.attention(weighting, **{name: jnp.ones(shape) for name, shape in (fitting | shapes).items()})


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"window": 0}, "Weighting: window must be at least 1, got 0"),
        ({"soft_cap": 0.0}, "Weighting: soft_cap must be positive, got 0.0"),
        ({"dropout": 1.5}, r"Weighting: dropout must be in \[0, 1\), got 1.5"),
        ({"block": 0}, "Weighting: block must be at least 1, got 0"),
        ({"form": "chunk"}, "unknown Weighting form 'chunk'; did you mean 'chunked'?"),
    ],
    ids=str,
)
def test_a_weighting_refuses_settings_out_of_their_range(setting, text):
    with pytest.raises(InputError, match=text):
        ops.Weighting(**setting)


@pytest.mark.parametrize("operation", [ops.swiglu, ops.geglu])
def test_a_gate_of_another_dtype_gets_its_own_back(operation):
    a, b = jnp.ones((2, 3), jnp.float32), jnp.ones((2, 3), jnp.bfloat16)
    for pair in ((a, b), (b, a)):
        gradients = jax.grad(lambda *pair: jnp.sum(operation(*pair)), (0, 1))(*pair)
        assert [g.dtype for g in gradients] == [a.dtype for a in pair]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda x: ops.layer_norm(x, jnp.ones(1)),
            r"over 3 channels takes a scale and a bias of shape \(3,\), got \(1,\)",
        ),
        (lambda x: ops.rms_norm(x, jnp.ones((2, 3))), r"got \(2, 3\)"),
        (
            lambda x: ops.lstm(x, jnp.ones((16, 3)), jnp.ones((16, 4)), jnp.ones(16), jnp.ones((2, 5, 4))),
            r"initial must have the shape \(2, 4\), one state for all examples, got \(2, 5, 4\)",
        ),
        (
            lambda x: ops.gru(x, jnp.ones((12, 3)), jnp.ones((12, 4)), jnp.ones(12), jnp.ones(4), jnp.ones((5, 4))),
            r"initial must have the shape \(1, 4\), one state for all examples, got \(5, 4\)",
        ),
    ],
    ids=["layer_norm", "rms_norm", "lstm", "gru"],
)
def test_a_shape_that_only_broadcasts_is_refused_before_the_backward_pass(call, text):
    with pytest.raises(InputError, match=text):
        jax.eval_shape(call, jnp.ones((5, 2, 3)))


def test_windows_may_be_lists():
    x, w = jnp.ones((2, 6, 6, 3)), jnp.ones((4, 3, 3, 3))
    padding = [[1, 1], [0, 1]]
    lists = jax.eval_shape(lambda: ops.conv(x, w, [2, 1], padding))
    assert lists.shape == ops.conv(x, w, (2, 1), ((1, 1), (0, 1))).shape
