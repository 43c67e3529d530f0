"""Linear layer, softmax and cross-entropy over chunks of rows: beside jax.grad of the plain formula, and in a model."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import (
    GELU,
    Chain,
    Conv,
    Dense,
    Embedding,
    Graph,
    InputError,
    Node,
    SoftCap,
    SoftmaxCrossEntropy,
    Tanh,
    batch,
    cast,
    shaped,
    value_and_grad,
)
from jaxbp.analysis import per_example, products
from jaxbp.check import autodiff, worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.data import Dataset
from jaxbp.ops.chunked_cross_entropy import linear_cross_entropy
from jaxbp.training.evaluate import make_evaluation
from tests.support.programs import compiled

pytestmark = pytest.mark.usefixtures("strict")
ITEMS, FEATURES, CLASSES = (3, 5), 4, 11
random = np.random.default_rng(0)
X = random.normal(size=(*ITEMS, FEATURES))
W = random.normal(size=(CLASSES, FEATURES))
B = random.normal(size=CLASSES)
TARGET = random.integers(0, CLASSES, ITEMS)
WEIGHT = random.uniform(0.1, 1, ITEMS)


def plain(x, w, target, weight, b, ignore=None, label_smoothing=0.0, z_loss=0.0, soft_cap=None):
    """The definition, with the logits of all rows."""
    z = jnp.einsum("nti,oi->nto", x, w)
    z = z if b is None else z + b[None, None]
    z = z if soft_cap is None else soft_cap * jnp.tanh(z / soft_cap)
    log_total = jax.nn.logsumexp(z, -1)
    t = jax.nn.one_hot(target, CLASSES) * (1 - label_smoothing) + label_smoothing / CLASSES
    items = log_total - jnp.sum(t * z, -1) + z_loss * log_total**2
    counts = target != (CLASSES if ignore is None else ignore)
    weight = jnp.full(ITEMS, 1 / jnp.sum(counts)) if weight is None else weight
    return jnp.sum(jnp.where(counts, weight * items, 0))


OPTIONS = [
    {},
    {"chunk": 4, "b": B},
    {"chunk": 1, "weight": WEIGHT},
    {"chunk": 100, "weight": WEIGHT, "b": B},
    {"chunk": 7, "label_smoothing": 0.2, "z_loss": 1e-2, "b": B},
    {"chunk": 4, "soft_cap": 2.0, "weight": WEIGHT},
    {"chunk": 4, "soft_cap": 2.0, "z_loss": 0.1, "label_smoothing": 0.2, "b": B, "weight": WEIGHT},
    {"chunk": 4, "ignore": int(TARGET[0, 0])},
    {"chunk": 4, "ignore": int(TARGET[0, 0]), "weight": WEIGHT, "z_loss": 0.1},
]


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, marks=[pytest.mark.slow] if i < 6 else []) for i, o in enumerate(OPTIONS)],
    ids=lambda o: "-".join(o) or "defaults",
)
def test_the_value_and_every_gradient(options, monkeypatch):
    """In x, w, b and weight; dw in blocks that do not divide the classes."""
    monkeypatch.setattr("jaxbp.ops.chunked_cross_entropy.BLOCK", 3 * FEATURES)
    others = {name: value for name, value in options.items() if name not in ("b", "weight", "chunk")}
    given = {"x": X, "w": W, "b": options.get("b"), "weight": options.get("weight")}

    @functools.partial(jax.jit, static_argnums=0)
    def measured(f, given):
        return jax.value_and_grad(lambda given: f(target=TARGET, **given))(given)

    hand = measured(functools.partial(linear_cross_entropy, chunk=options.get("chunk", 384), **others), given)
    assert worst(hand, measured(functools.partial(plain, **others), given)) <= FLOAT64_TOLERANCE


def test_a_row_of_weight_zero_may_hold_anything():
    """A class that does not exist and infinite logits: nothing but 0 comes of that row."""
    weight, target, x = WEIGHT.copy(), TARGET.copy(), X.copy()
    weight[1, 2], target[1, 2] = 0, -100
    of_rows = lambda x, w, target: linear_cross_entropy(x, w, target, weight, chunk=4)
    gradient = jax.jit(jax.value_and_grad(of_rows, (0, 1)))
    loss = lambda x, target: gradient(x, W, target)
    value, (dx, dw) = loss(x, target)
    x[1, 2] = np.nan
    other, (dx_far, dw_far) = loss(x, target)
    assert value == other
    assert not dx[1, 2].any()
    np.testing.assert_array_equal(dx, dx_far)
    np.testing.assert_array_equal(dw, dw_far)
    assert np.isnan(linear_cross_entropy(X, W, target))
    assert linear_cross_entropy(X, W, target, ignore=-100) == linear_cross_entropy(
        X, W, target, weight=(target >= 0) / 14
    )


@pytest.mark.slow
def test_inside_other_transformations():
    """vmap, scan, remat and a gradient inside a gradient are those of the plain formula."""
    stack = np.stack([X, 2 * X, -X])

    @functools.partial(jax.jit, static_argnums=0)
    def transformed(f, stack):
        gradient = jax.grad(lambda x, w: f(x, w, TARGET, WEIGHT, None), (0, 1))
        return {
            "vmap": jax.vmap(gradient, (0, None))(stack, W),
            "scan": jax.lax.map(lambda x: gradient(x, W), stack),
            "remat": jax.grad(jax.checkpoint(lambda x: f(x, W, TARGET, WEIGHT, None)))(X),
            "inside": jax.grad(lambda w: jnp.sum(gradient(X, w)[0] ** 2))(W),
        }

    hand = transformed(functools.partial(linear_cross_entropy, chunk=4), stack)
    plainly = transformed(plain, stack)
    assert {name for name in hand if worst(hand[name], plainly[name]) > FLOAT64_TOLERANCE} == set()


@pytest.mark.slow
def test_bfloat16_activations():
    """The value is in float32, the gradients in the dtypes of their arguments; as near to the truth as autodiff is."""
    x, w = jnp.asarray(X, jnp.bfloat16), jnp.asarray(W, jnp.float32)

    def stored(x, w):
        z = jnp.einsum("nti,oi->nto", x, w.astype(jnp.bfloat16)).astype(jnp.float32)
        own = jnp.take_along_axis(z, jnp.asarray(TARGET)[..., None], -1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(z, -1) - own)

    of_rows = lambda x, w: linear_cross_entropy(x, w, TARGET, chunk=4)
    value, (dx, dw) = jax.jit(jax.value_and_grad(of_rows, (0, 1)))(x, w)
    assert (value.dtype, dx.dtype, dw.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    exactly = jax.jit(jax.grad(lambda x, w: plain(x, w, TARGET, None, None), (0, 1)))
    truth = exactly(cast(x, jnp.float64), cast(w, jnp.float64))
    auto = jax.jit(jax.grad(stored, (0, 1)))(x, w)
    exact = lambda tree: cast(tree, jnp.float64)
    assert worst(exact((dx, dw)), truth) <= 4 * max(worst(exact(auto), truth), 2 * float(jnp.finfo(jnp.bfloat16).eps))


def test_bfloat16_weights_gather_no_rounding_over_chunks():
    keys = jax.random.split(jax.random.key(0), 4)
    x, w, b = (jax.random.normal(k, n, jnp.bfloat16) for k, n in zip(keys, ((512, 8), (16, 8), (16,)), strict=False))
    target = jax.random.randint(keys[3], (512,), 0, 16)
    whole = lambda w, b: linear_cross_entropy(x.astype(jnp.float32), w, target, b=b)
    truth = jax.jit(jax.grad(whole, (0, 1)))(w.astype(jnp.float32), b.astype(jnp.float32))
    row_by_row = lambda w, b: linear_cross_entropy(x, w, target, b=b, chunk=1)
    gradients = jax.jit(jax.grad(row_by_row, (0, 1)))(w, b)
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    assert worst(cast(gradients, jnp.float32), truth) <= 2 * float(jnp.finfo(jnp.bfloat16).eps)


# --- In a model --------------------------------------------------------------------------------------------------

CHAIN = Chain(Embedding(CLASSES, FEATURES), Tanh(), Dense(CLASSES))
CAPPED = Chain(Embedding(CLASSES, FEATURES), Chain(Tanh(), Dense(CLASSES, b_init="ones"), SoftCap(2.0)))
TIED = Graph(
    (
        Node("embed", Embedding(CLASSES, FEATURES), "x"),
        Node("bend", Tanh(), "embed"),
        Node("head", Dense(CLASSES, bias=False), "bend", shares="embed"),
        Node("cap", SoftCap(2.0), "head"),
    )
)
LOSS = SoftmaxCrossEntropy(label_smoothing=0.1, z_loss=0.01, chunk=4)
STORED = SoftmaxCrossEntropy(label_smoothing=0.1, z_loss=0.01)


def in_float64(model):
    return cast(model.init(jax.random.key(0), shaped(*ITEMS, dtype=jnp.int32)), jnp.float64)


@pytest.mark.parametrize(
    "model",
    [pytest.param(CHAIN, marks=pytest.mark.slow), pytest.param(CAPPED, marks=pytest.mark.slow), TIED],
    ids=["chain", "capped", "tied"],
)
def test_a_model_learns_and_is_evaluated_as_with_all_logits(model):
    mask = np.ones(ITEMS)
    mask[1, 3:] = 0
    data = batch(TARGET, TARGET[:, ::-1], mask)
    params = in_float64(model)

    @jax.jit
    def both(params, data):
        return value_and_grad(model, LOSS)(params, data), autodiff(model, STORED)(params, data)

    chunked, stored = both(params, data)
    assert worst((chunked.value, chunked.grads), (stored.value, stored.grads)) <= FLOAT64_TOLERANCE
    assert chunked.output.shape == (*ITEMS, FEATURES)
    part = Dataset(TARGET.astype(np.int32), TARGET[:, ::-1].astype(np.int32), mask.astype(np.float32))
    state = model.init_state(TARGET)
    with jax.numpy_dtype_promotion("standard"):
        evaluated = [make_evaluation(model, loss, True)(params, state, part) for loss in (LOSS, STORED)]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-6)


@pytest.mark.slow
def test_what_asks_for_single_examples_gets_them():
    """Norms, clipping and a product with the Gauss-Newton matrix are those of the loss with all logits."""
    data = {"x": TARGET, "y": TARGET[:, ::-1], "weight": WEIGHT}
    params = in_float64(TIED)

    @functools.partial(jax.jit, static_argnums=0)
    def measured(loss, params):
        return (
            per_example.squared_norms(TIED, loss)(params, data),
            per_example.clipped_gradient(TIED, loss, 0.1, "sum")(params, data),
            products.gauss_newton(TIED, loss)(params, data, params),
            products.hessian(value_and_grad(TIED, loss))(params, data, params),
        )

    assert worst(measured(LOSS, params), measured(STORED, params)) <= FLOAT64_TOLERANCE


def test_the_program_holds_no_array_of_all_logits():
    """Training has 3 products, evaluation 1, each on a chunk; no array has an entry for each row and class."""
    rows, features, classes = 64, 8, 1000
    model = Chain(Dense(features), GELU(), Dense(classes))
    loss = SoftmaxCrossEntropy(chunk=16)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), shaped(rows, features)))
    data = {"x": shaped(rows, features), "y": shaped(rows, dtype=jnp.int32), "weight": shaped(rows)}

    def evaluation(params, data):
        y, _ = loss.prepared(model).forward(params, data["x"])
        return loss.scored(y, data["y"], data["weight"])

    def sizes(loss, function):
        text = compiled(jax.jit(function).lower(params, data)).as_text()
        return {np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]", text)}

    assert rows * classes in sizes(loss, value_and_grad(model, SoftmaxCrossEntropy()))  # else the test sees nothing
    for function in (value_and_grad(model, loss), evaluation):
        assert max(sizes(loss, function)) == 16 * classes
    wide = lambda f: re.findall(rf"dot_general[^\n]*{classes}", jax.jit(f).lower(params, data).as_text())
    assert (len(wide(value_and_grad(model, loss))), len(wide(evaluation))) == (3, 1)


def test_what_does_not_fit():
    with pytest.raises(
        InputError, match=r"x \[..., I\], w \[V, I\], integer .* got float64\[3, 5, 4\], float64\[11, 3\]"
    ):
        linear_cross_entropy(X, W[:, :3], TARGET)
    with pytest.raises(InputError, match="do not fit"):
        linear_cross_entropy(X, W, TARGET + 0.5)
    with pytest.raises(InputError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        linear_cross_entropy(X, W, TARGET, label_smoothing=1)
    with pytest.raises(InputError, match="chunk must be at least 1, got 0"):
        linear_cross_entropy(X, W, TARGET, chunk=0)
    with pytest.raises(InputError, match=r"needs a model whose last layer is a Dense, .* got 'conv'"):
        value_and_grad(Chain(Conv(3, (2, 2))), LOSS)
    capped = Chain(Dense(4), SoftCap(2.0))
    for model in (
        SoftCap(3.0),
        Chain(Dense(4), Tanh(), SoftCap(3.0)),
        Chain(Dense(4), SoftCap(2.0), SoftCap(3.0)),
        Chain(Chain(Dense(4)), SoftCap(3.0)),
        Graph((Node("cap", SoftCap(3.0), "x"),)),
        Graph((Node("logits", capped, "x"), Node("cap", SoftCap(3.0), "logits"))),
    ):
        with pytest.raises(InputError, match=r"needs a model whose last layer is a Dense, .* got '(softcap|graph)'"):
            value_and_grad(model, LOSS)
    with pytest.raises(InputError, match=r"need integer classes \[3, 5\], got float \[3, 5, 11\]"):
        value_and_grad(CHAIN, LOSS)(in_float64(CHAIN), {"x": TARGET, "y": np.zeros((*ITEMS, CLASSES))})
