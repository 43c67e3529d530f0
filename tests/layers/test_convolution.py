"""Convolution: hand arithmetic, PyTorch's gradients, the forms of other platforms, and what is compiled."""

import re
from unittest import mock

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax import lax

from jaxbp import Context, Conv, ConvTranspose, InputError, cast, output_spec, shaped
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.ops import correlation
from tests.support.programs import compiled

PINNED = pytest.mark.skipif(jaxlib.__version__ != "0.10.2", reason="what is compiled is that of jaxlib 0.10.2")
PAIR = lambda n, rank=2: ((n, n),) * rank


def passes(layer, params, x, dy):
    y, cache = layer.forward(params, x, Context())
    return y, *layer.backward(params, cache, dy)


def plain(layer, params, x, dy):
    """The same by jax.vjp of one XLA convolution, which is what a user of jax.grad runs."""
    axes = (0, x.ndim - 1, *range(1, x.ndim - 1))
    layout = lax.ConvDimensionNumbers(axes, axes, axes)
    window = layer.window(x.shape[1:-1])

    def forward(params, x):
        y = lax.conv_general_dilated(
            x, params["w"], window.strides, window.padding, None, window.dilation, layout, window.groups
        )
        return y + params["b"]

    y, back = jax.vjp(forward, params, x)
    return y, *reversed(back(dy))


def arguments(layer, shape, seed=0):
    """Random (params, x, dy), float32."""
    spec = shaped(*shape)
    draw = lambda i, s: jax.random.normal(jax.random.key(seed + i), s.shape)
    return layer.init(jax.random.key(seed), spec), draw(1, spec), draw(2, output_spec(layer, spec))


def test_hand_arithmetic():
    x, dy = jnp.array([[[1.0], [2.0], [4.0], [8.0]]]), jnp.array([[[1.0], [10.0]]])
    params = {"w": jnp.array([[[3.0], [5.0], [7.0]]]), "b": jnp.array([0.5])}
    y, dx, grads = passes(Conv(1, (3,), padding="VALID"), params, x, dy)
    assert y.ravel().tolist() == [3 + 10 + 28 + 0.5, 6 + 20 + 56 + 0.5]
    assert dx.ravel().tolist() == [3, 5 + 30, 7 + 50, 70]
    assert grads["w"].ravel().tolist() == [1 + 20, 2 + 40, 4 + 80]
    assert grads["b"].tolist() == [11]
    back = jnp.arange(5.0).reshape(1, 5, 1)
    y, dx, grads = passes(ConvTranspose(1, (3,), strides=2, padding="VALID"), params, dy, back)
    assert y.ravel().tolist() == [3.5, 5.5, 7 + 30 + 0.5, 50.5, 70.5]
    assert dx.ravel().tolist() == [0 * 3 + 1 * 5 + 2 * 7, 2 * 3 + 3 * 5 + 4 * 7]
    assert grads["w"].ravel().tolist() == [0 + 20, 1 + 30, 2 + 40]


def test_sizes_and_fans():
    for n in (5, 6, 7, 8):
        spec = shaped(2, n, 4)
        assert output_spec(Conv(3, (3,), 2), spec).shape == (2, -(-n // 2), 3)
        assert output_spec(Conv(3, (3,), 2, "VALID", 2), spec).shape == (2, (n - 5) // 2 + 1, 3)
        assert output_spec(ConvTranspose(3, (3,), 2), spec).shape == (2, 2 * n, 3)
        assert output_spec(ConvTranspose(3, (3,), 4, "VALID"), spec).shape == (2, 4 * n, 3)
        assert output_spec(ConvTranspose(3, (4,), 2, ((1, 0),)), spec).shape == (2, 2 * (n - 1) + 3, 3)
    w = Conv(512, (3, 5), groups=2).init(jax.random.key(0), shaped(1, 9, 9, 32))["w"]
    assert w.shape == (512, 3, 5, 16)
    assert abs(float(w.var()) * 3 * 5 * 16 - 1) < 0.05  # lecun_normal: 1 / fan_in


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv(4, ()), "kernel"),
        (lambda: Conv(4, (3, 0)), "kernel"),
        (lambda: Conv(4, strides=(1, 2, 3)), "strides"),
        (lambda: Conv(4, dilation=0), "dilation"),
        (lambda: Conv(4, padding="same"), "'SAME', 'VALID'"),
        (lambda: Conv(4, padding=((1, -1), (0, 0))), "pairs"),
        (lambda: Conv(4, groups=3), "features 4 and groups 3"),
        (lambda: output_spec(Conv(4), shaped(2, 5, 5)), "spatial axes"),
        (lambda: output_spec(Conv(4, groups=2), shaped(2, 5, 5, 3)), "multiple of 2 channels"),
        (lambda: output_spec(Conv(4, padding="VALID"), shaped(2, 2, 5, 3)), "does not fit"),
        (lambda: output_spec(ConvTranspose(4, padding=PAIR(2)), shaped(2, 2, 5, 3)), "leaves no output"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


WAYS = [  # (layer, input shape) of every way in which windows can meet
    (Conv(3, (3, 2), (2, 1), ((1, 3), (0, 2)), (1, 2)), (4, 7, 6, 2)),
    (Conv(2, (4,), 3, ((0, 0),), 2), (4, 12, 3)),  # the last two entries are never read
    (Conv(3, (2, 2), 3), (4, 7, 6, 2)),
    (ConvTranspose(3, (3, 3), 2), (4, 3, 4, 2)),
    (Conv(2, (2, 3, 2)), (4, 3, 4, 3, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "shape"), WAYS, ids=["padded", "unread", "disjoint", "transposed", "3d"])
def test_every_form_gives_the_same(strict, monkeypatch, layer, shape):
    """Patches of no, some or all images at once. Which is fastest depends on sizes that no test has."""
    params, x, dy = cast(arguments(layer, shape), jnp.float64)

    @jax.jit
    def everything(params, x, dy):
        forms = {}
        for count in (2, 4, 0):
            monkeypatch.setattr(correlation, "at_once", mock.Mock(return_value=count))
            forms[count] = passes(layer, params, x, dy)
        y, back = jax.vjp(lambda params, x: layer.forward(params, x, Context())[0], params, x)
        return forms, (y, *reversed(back(dy)))

    forms, autodiff = everything(params, x, dy)
    assert max(worst(form, autodiff) for form in forms.values()) <= FLOAT64_TOLERANCE


def test_how_many_images_are_taken_at_once():
    at_once = correlation.at_once
    large = Conv(64, (5, 5), padding="VALID").window((12, 12))
    assert at_once(64, (64, 5, 5, 32), large, correlation.WIDE) == 8  # 8 times 51,200 entries are less than 2^19
    assert at_once(63, (64, 5, 5, 32), large, correlation.WIDE) == 9
    assert at_once(64, (32, 5, 5, 32), large, correlation.WIDE) == 0  # too few output channels
    assert at_once(8, (64, 5, 5, 32), large) == 0  # all is in the cache anyway
    assert at_once(8, (128, 2, 64), Conv(128, (2,)).window((4096,)), correlation.WIDE) == 0  # too few taps
    assert at_once(1, (512, 3, 3, 512), Conv(512).window((7, 7))) == 1  # more weights than activations
    assert at_once(64, (64, 3, 3, 64), Conv(64).window((224, 224))) == 0  # one image is too many
    assert at_once(64, (64, 1, 1, 64), Conv(64, (1, 1)).window((224, 224))) == 64  # patches are x itself


DEFAULT = {  # name: (layer, input shape)
    "groups": (Conv(6, (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), groups=2), (3, 7, 6, 4)),
    "plain": (Conv(3, (3,), 2, "VALID"), (3, 10, 2)),
    "depthwise": (Conv(6, (2, 3), groups=3), (3, 5, 4, 3)),
    "3d": (Conv(2, (3, 1, 2), (2, 1, 1)), (2, 5, 3, 4, 3)),
    "transposed": (ConvTranspose(6, (3, 2), 2, groups=2), (3, 3, 4, 4)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
def test_the_forms_of_other_platforms_are_the_same(monkeypatch):
    """Each platform's forms give the numbers of the CPU's; run on the CPU."""
    settings = cast({name: arguments(layer, shape) for name, (layer, shape) in DEFAULT.items()}, jnp.float64)
    every = lambda settings: {name: passes(layer, *settings[name]) for name, (layer, _) in DEFAULT.items()}
    cpu = jax.jit(lambda settings: every(settings))(settings)
    monkeypatch.setattr(lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    other = jax.jit(lambda settings: every(settings))(settings)
    assert worst(cpu, other) <= FLOAT64_TOLERANCE


LOOPED = {
    "3x3": (Conv(8), (4, 8, 8, 16)),
    "strided": (Conv(8, (5, 3), (2, 1), "VALID", (1, 2)), (4, 10, 9, 16)),
    "1d": (Conv(8, (3,), dilation=2), (4, 12, 16)),
    "3d": (Conv(8, (3, 3, 2)), (2, 4, 6, 5, 4)),
    "groups": (Conv(8, groups=2), (4, 8, 8, 16)),
    "depthwise": (Conv(16, groups=16), (4, 8, 8, 16)),
    "1x1": (Conv(8, (1, 1)), (4, 8, 8, 16)),
    "transposed": (ConvTranspose(8, (4, 4), 2, PAIR(1)), (4, 5, 5, 16)),
}
LABELS = re.compile(r"convolution\(.*dim_labels=([^, ]*)")
FAST = ("b0f_0io->b0f", "b01f_01io->b01f")


def looped(both, layer, shape):
    """The compiled text of three training steps in a scan."""

    def run(params, batches):
        def step(params, batch):
            y, dx, grads = both(layer, params, *batch)
            return jax.tree.map(jnp.subtract, params, grads), jnp.sum(y) + jnp.sum(dx)

        return lax.scan(step, params, batches)

    params, x, dy = jax.eval_shape(lambda: arguments(layer, shape))
    batches = jax.tree.map(lambda s: shaped(3, *s.shape), (x, dy))
    return compiled(jax.jit(run).lower(params, batches)).as_text()


@pytest.mark.slow
@PINNED
def test_no_slow_convolution_in_a_loop():
    labels = {name: LABELS.findall(looped(passes, *case)) for name, case in LOOPED.items()}
    assert set().union(*labels.values()) <= set(FAST)
    counts = {name: len(labels[name]) for name in ("3x3", "strided", "1d")}
    assert counts == {"3x3": 3, "strided": 4, "1d": 3}  # with a stride of two, dx has two remainders
    assert labels["1x1"] == labels["depthwise"] == []
    assert not set(LABELS.findall(looped(plain, *LOOPED["3x3"]))) <= set(FAST)  # those of automatic differentiation


SIZES = {  # name: (layer, input shape, largest ratio of temporary bytes)
    "5x5": (Conv(32, (5, 5)), (16, 14, 14, 16), 1.1),
    "3x3": (Conv(64), (8, 14, 14, 64), 1.1),
    "3x3 stride 2": (Conv(64, strides=2, padding=PAIR(1)), (8, 14, 14, 64), 1.1),
    "7x7 stride 2": (Conv(32, (7, 7), 2, PAIR(3)), (2, 64, 64, 3), 1.1),
    "dilated": (Conv(32, dilation=4), (2, 33, 33, 32), 1.1),
    "1d": (Conv(64, (9,)), (4, 200, 40), 1.1),
    "1d, two taps": (Conv(128, (2,), 1, ((8, 0),), 8), (2, 4096, 64), 1.1),
    "1x1": (Conv(256, (1, 1)), (2, 28, 28, 64), 1.0),
    "large batch": (Conv(64, (5, 5), padding="VALID"), (64, 12, 12, 32), 2.0),  # patches of 2 MiB, whatever the batch
    "larger batch": (Conv(64), (128, 14, 14, 64), 0.7),
    "more weights": (Conv(256), (1, 14, 14, 256), 1.7),  # the patches of one small image
    "2x2 stride 2": (Conv(64, (2, 2), 2), (2, 28, 28, 32), 2.0),
    "groups": (Conv(64, groups=4), (4, 14, 14, 64), 1.35),
    "depthwise": (Conv(64, groups=64), (4, 28, 28, 64), 1.35),
    "depthwise 7x7": (Conv(32, (7, 7), groups=32), (4, 28, 28, 32), 1.35),
    "depthwise stride 2": (Conv(32, strides=2, groups=32), (4, 28, 28, 32), 2.0),
}


@PINNED
@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_temporary_bytes(name):
    layer, shape, limit = SIZES[name]
    specs = jax.eval_shape(lambda: arguments(layer, shape))

    def temp(both):
        program = compiled(jax.jit(both, static_argnums=0).lower(layer, *specs))
        return program.memory_analysis().temp_size_in_bytes

    assert temp(passes) <= limit * temp(plain)


def drawn(seed):
    """A random (layer, input shape) that torch has too."""
    r = np.random.default_rng(seed)
    rank, transposed = int(r.integers(1, 4)), bool(r.integers(2))
    kernel = tuple(int(k) for k in r.integers(1, 5 if rank < 3 else 3, rank))
    strides, dilation = (tuple(int(s) for s in r.integers(1, 4, rank)) for _ in range(2))
    groups = int(r.choice([1, 1, 2, 3]))
    channels = groups if r.random() < 0.3 else 2 * groups
    padding = tuple((int(p),) * 2 for p in r.integers(0, min(kernel) + 1, rank))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    space = tuple(int(r.integers(n, n + 4)) for n in (reach if not transposed else [3] * rank))
    sizes = zip(strides, space, reach, padding, strict=True)
    if transposed and min(s * (n - 1) + k - 2 * p for s, n, k, (p, _) in sizes) < 1:
        padding = ((0, 0),) * rank
    kind = ConvTranspose if transposed else Conv
    return kind(3 * groups, kernel, strides, padding, dilation, groups), (2, *space, channels)


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    "seed", [*range(30), *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(30, 50))]
)
def test_gradients_of_torch(seed):
    torch = pytest.importorskip("torch")
    layer, shape = drawn(seed)
    params, x, dy = cast(arguments(layer, shape, seed), jnp.float64)
    y, dx, grads = jax.jit(passes, static_argnums=0)(layer, params, x, dy)
    rank, groups = len(layer.kernel), layer.groups
    first = lambda a: torch.tensor(np.moveaxis(np.asarray(a), -1, 1))  # channels first
    last = lambda t: np.moveaxis(t.detach().numpy(), 1, -1)
    w, b, tx = first(params["w"]), torch.tensor(np.asarray(params["b"])), first(x)
    options = {"stride": layer.strides, "padding": [low for low, _ in layer.padding], "dilation": layer.dilation}
    for t in (w, b, tx):
        t.requires_grad_()
    if isinstance(layer, ConvTranspose):  # torch's weight is [I, O / groups, *kernel]
        parts = w.reshape(groups, -1, *w.shape[1:]).transpose(1, 2).reshape(-1, len(w) // groups, *w.shape[2:])
        ty = getattr(torch.nn.functional, f"conv_transpose{rank}d")(tx, parts, b, groups=groups, **options)
    else:
        ty = getattr(torch.nn.functional, f"conv{rank}d")(tx, w, b, groups=groups, **options)
    ty.backward(first(dy))
    theirs = last(ty), last(tx.grad), {"w": last(w.grad), "b": b.grad.numpy()}
    assert worst((y, dx, grads), jax.tree.map(jnp.asarray, theirs)) <= FLOAT64_TOLERANCE
