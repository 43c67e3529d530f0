"""Losses: values beside plain Python, deltas beside jax.grad, weights, hard points, misfits."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxbp import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    InputError,
    Loss,
    MulticlassHinge,
    NegativeELBO,
    Penalty,
    SoftmaxCrossEntropy,
    SquaredError,
)
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE

pytestmark = pytest.mark.usefixtures("strict")
N, T, OUTPUTS = 5, 2, 3
EPS = float(np.finfo(np.float64).eps)
laws = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def close(got, want):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-13, atol=1e-15)


# --- Every loss, with the same item in plain Python --------------------------------------------------------------


def squared(factor: float) -> Callable:
    return lambda y, t: factor * sum((a - b) ** 2 for a, b in zip(y, t, strict=True))


def absolute(y, t):
    return sum(abs(a - b) for a, b in zip(y, t, strict=True))


def huber(width: float) -> Callable:
    entry = lambda e: e * e / 2 if e <= width else width * (e - width / 2)
    return lambda y, t: sum(entry(abs(a - b)) for a, b in zip(y, t, strict=True))


def binary(s: float) -> Callable:
    def item(y, t):
        p = [1 / (1 + math.exp(-a)) for a in y]
        t = [b * (1 - s) + s / 2 for b in np.atleast_1d(t)]
        return -sum(b * math.log(q) + (1 - b) * math.log(1 - q) for q, b in zip(p, t, strict=True))

    return item


def softmax(s: float) -> Callable:
    def item(y, t):
        t = [float(o == t) for o in range(len(y))] if np.ndim(t) == 0 else t
        total = sum(math.exp(a) for a in y)
        return -sum((b * (1 - s) + s / len(y)) * math.log(math.exp(a) / total) for a, b in zip(y, t, strict=True))

    return item


def hinge(margin: float) -> Callable:
    return lambda y, t: sum(max(0.0, a - y[t] + margin) for o, a in enumerate(y) if o != t)


def elbo(y, t):
    *pixels, m, s = y
    return binary(0.0)(pixels, t) + (m * m + math.exp(s) - s - 1) / 2


@dataclass(frozen=True)
class Variant:
    """A loss, the kind of its targets, and one item of it in plain Python."""

    loss: Loss
    kind: str
    item: Callable
    outputs: int = OUTPUTS

    def __str__(self) -> str:
        return f"{self.loss}-{self.kind}"

    def draw(self, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Outputs [*shape, O], targets and weights [*shape]; no target is an output's neighbour."""
        random = np.random.default_rng(list(shape))
        y = 2 * random.normal(size=(*shape, self.outputs))
        t = {
            "real": lambda: random.normal(size=y.shape),
            "fraction": lambda: random.uniform(size=y.shape),
            "label": lambda: random.integers(0, 2, size=shape),
            "class": lambda: random.integers(0, self.outputs, size=shape),
            "pixels": lambda: random.uniform(size=(*shape, self.outputs - 2)),
            "distribution": lambda: random.dirichlet(np.ones(self.outputs), size=shape),
        }[self.kind]()
        return y, t, random.uniform(0.1, 1, size=shape)

    def reference(self, y, t, weight) -> float:
        shape = weight.shape
        return sum(weight[i] * self.item(y[i].tolist(), t[i].tolist()) for i in np.ndindex(shape))


VARIANTS = [
    Variant(SquaredError("half_sum"), "real", squared(1 / 2)),
    Variant(SquaredError("sum"), "real", squared(1)),
    Variant(SquaredError("mean"), "real", squared(1 / OUTPUTS)),
    Variant(AbsoluteError(), "real", absolute),
    Variant(Huber(), "real", huber(1.0)),
    Variant(Huber(0.3), "real", huber(0.3)),
    Variant(BinaryCrossEntropy(), "fraction", binary(0.0)),
    Variant(BinaryCrossEntropy(0.2), "fraction", binary(0.2)),
    Variant(BinaryCrossEntropy(), "label", binary(0.0), outputs=1),
    Variant(BinaryCrossEntropy(0.2), "label", binary(0.2), outputs=1),
    Variant(SoftmaxCrossEntropy(), "class", softmax(0.0)),
    Variant(SoftmaxCrossEntropy(0.2), "class", softmax(0.2)),
    Variant(SoftmaxCrossEntropy(), "distribution", softmax(0.0)),
    Variant(SoftmaxCrossEntropy(0.2), "distribution", softmax(0.2)),
    Variant(MulticlassHinge(), "class", hinge(1.0)),
    Variant(MulticlassHinge(0.5), "class", hinge(0.5)),
    Variant(NegativeELBO(1), "pixels", elbo, outputs=5),
]
EVERY = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def value_and_delta(loss, y, t, weight):
    value, cache = loss.forward(y, t, weight)
    return value, loss.backward(cache)


quick = {"xla_backend_optimization_level": 0}  # compiles in half the time
evaluate = jax.jit(value_and_delta, static_argnums=0, compiler_options=quick)


@functools.cache
def measured(variant: Variant) -> dict:
    """Name -> (value, delta), and the oracle's delta where there is one; one compiled program for each variant.

    The weighted ones run on the rows, on the rows again, and on rows of huge outputs.
    """
    rows = variant.draw(N)
    y, t, w = rows
    three = np.concatenate([y, y, np.where(y > 0, 1e100, -1e100)]), np.concatenate([t, t, t])
    none = np.zeros(N)
    weights = {"once": [w, none, none], "duplicated": [w / 2, w / 2, none], "none": [none, none, none]}

    @functools.partial(jax.jit, compiler_options=quick)
    def everything(rows, steps, three, weights):
        f = functools.partial(value_and_delta, variant.loss)
        oracle = lambda y, t, w: jax.grad(lambda y: variant.loss.forward(y, t, w)[0])(y)
        y, t, w = rows[0].astype(jnp.bfloat16), rows[1], rows[2].astype(jnp.float32)
        return {
            "rows": (*f(*rows), oracle(*rows)),
            "steps": (*f(*steps), oracle(*steps)),
            "weighted": jax.vmap(lambda w: f(*three, w))(weights),
            "bfloat16": f(y, t, w),
            "float32": f(y.astype(jnp.float32), t, w),
        }

    weighted = np.stack([np.concatenate(parts) for parts in weights.values()])
    out = jax.device_get(everything(rows, variant.draw(N, T), three, weighted))
    return out | {name: (out["weighted"][0][i], out["weighted"][1][i]) for i, name in enumerate(weights)}


def test_every_loss_has_a_variant():
    def family(cls):
        return {cls}.union(*(family(sub) for sub in cls.__subclasses__()))

    losses = {cls for cls in family(Loss) if cls.items is not Loss.items and cls.__module__.startswith("jaxbp.")}
    assert {type(v.loss) for v in VARIANTS} == losses, "a loss without a Variant in this file is not tested"


@EVERY
@pytest.mark.parametrize(("name", "shape"), [("rows", (N,)), ("steps", (N, T))])
def test_value(variant, name, shape):
    close(measured(variant)[name][0], variant.reference(*variant.draw(*shape)))


@EVERY
@pytest.mark.parametrize("name", ["rows", "steps"])
def test_delta_is_the_gradient_of_the_value(variant, name):
    _, dy, autodiff = measured(variant)[name]
    assert dy.dtype == np.float64
    assert worst(dy, autodiff) <= FLOAT64_TOLERANCE


@EVERY
def test_rows_of_weight_zero_count_for_nothing(variant):
    """However large their loss is."""
    value, dy, _ = measured(variant)["rows"]
    once, dy_once = measured(variant)["once"]
    close(once, value)
    close(dy_once, np.concatenate([dy, 0 * dy, 0 * dy]))


@EVERY
def test_a_duplicated_batch_with_halved_weights_is_the_same(variant):
    value, dy, _ = measured(variant)["rows"]
    twice, dy_twice = measured(variant)["duplicated"]
    close(twice, value)
    close(dy_twice, np.concatenate([dy / 2, dy / 2, 0 * dy]))


@EVERY
def test_all_rows_of_weight_zero_give_zero(variant):
    value, dy = measured(variant)["none"]
    assert value == 0
    assert not dy.any()


@EVERY
def test_bfloat16_outputs_with_float32_weights(variant):
    """Computed in float32; only dy is rounded."""
    value, dy = measured(variant)["bfloat16"]
    value_float32, dy_float32 = measured(variant)["float32"]
    assert (value.dtype, dy.dtype, dy_float32.dtype) == (np.float32, jnp.bfloat16, np.float32)
    assert value == value_float32
    np.testing.assert_array_equal(dy, dy_float32.astype(jnp.bfloat16))


def test_float64_outputs_with_float32_weights_keep_their_digits():
    y = jnp.array([[1 / 3]], jnp.float64)
    target = jnp.zeros((1, 1), jnp.float64)
    value, cache = SquaredError("sum").forward(y, target, jnp.ones(1, jnp.float32))
    assert float(value) == (1 / 3) ** 2
    assert SquaredError("sum").backward(cache).dtype == jnp.float64


# --- Hard points -------------------------------------------------------------------------------------------------

FAR, WIDE = [1e4, -1e4], [1e4, -1e4, 0.0]
POINTS = [  # loss, one output, its target, value, delta
    (SquaredError(), FAR, [0.0, 0.0], 1e8, FAR),
    (SquaredError("mean"), FAR, [0.0, 0.0], 1e8, FAR),
    (AbsoluteError(), FAR, [0.0, 0.0], 2e4, [1, -1]),
    (Huber(), FAR, [0.0, 0.0], 2e4 - 1, [1, -1]),
    (BinaryCrossEntropy(), FAR, [1.0, 0.0], 0, [0, 0]),
    (BinaryCrossEntropy(), FAR, [0.0, 1.0], 2e4, [1, -1]),
    (BinaryCrossEntropy(0.5), FAR, [1.0, 0.0], 5e3, [0.25, -0.25]),
    (SoftmaxCrossEntropy(), WIDE, 0, 0, [0, 0, 0]),
    (SoftmaxCrossEntropy(), WIDE, 1, 2e4, [1, -1, 0]),
    (SoftmaxCrossEntropy(0.75), WIDE, 0, 7.5e3, [0.5, -0.25, -0.25]),
    (SoftmaxCrossEntropy(), WIDE, [0.5, 0.5, 0.0], 1e4, [0.5, -0.5, 0]),
    (MulticlassHinge(), WIDE, 0, 0, [0, 0, 0]),
    (MulticlassHinge(), WIDE, 1, 3e4 + 2, [1, -2, 1]),
    (MulticlassHinge(), [0.0] * 10, 0, 9, [-9] + [1] * 9),  # CS231n: a loss of classes - 1 at the start
    (SquaredError(), [2.5, -3.0], [2.5, -3.0], 0, [0, 0]),
    (AbsoluteError(), [2.5, -3.0], [2.5, -3.0], 0, [0, 0]),
    (Huber(), [2.5, -3.0], [2.5, -3.0], 0, [0, 0]),
    (Huber(2.0), [2.0, -2.0], [0.0, 0.0], 4, [2, -2]),
    (BinaryCrossEntropy(), [0.0, 0.0], [0.5, 0.5], 2 * math.log(2), [0, 0]),
    (SoftmaxCrossEntropy(), [0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], math.log(4), [0, 0, 0, 0]),
    (SoftmaxCrossEntropy(), [-1e4, -1e4], 0, math.log(2), [-0.5, 0.5]),
]


@pytest.mark.parametrize(("loss", "y", "t", "value", "dy"), POINTS, ids=[f"{p[0]}{p[1]}{p[2]}" for p in POINTS])
def test_hard_points(loss, y, t, value, dy):
    """In float32, where e^89 is infinite."""
    target = np.array([t], np.float32 if isinstance(t, list) else np.int32)
    computed, computed_dy = evaluate(loss, np.array([y], np.float32), target, np.ones(1, np.float32))
    assert (computed.dtype, computed_dy.dtype) == (np.float32, np.float32)
    eps = np.finfo(np.float32).eps
    rounded = eps * max(map(abs, y))  # ln sum e^y - y_t is as exact as y is
    np.testing.assert_allclose(computed, value, rtol=2 * eps, atol=rounded)
    np.testing.assert_array_equal(computed_dy, np.array([dy], np.float32))


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), SoftmaxCrossEntropy(0.1), MulticlassHinge()], ids=str)
@pytest.mark.parametrize("label", [-4, -1, 3])
def test_a_class_that_does_not_exist_gives_nan(loss, label):
    assert np.isnan(evaluate(loss, np.array([[1.0, 2.0, 3.0]]), np.array([label]), np.ones(1))[0])


# --- Conventions -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def errors():
    """Outputs, targets and their difference e [N, O]."""
    y, t, _ = VARIANTS[0].draw(N)
    return y, t, y - t


@pytest.mark.parametrize(
    ("scale", "weight", "convention"),
    [
        ("half_sum", 1 / N, lambda e: np.sum(e**2) / (2 * N)),
        ("half_sum", 1, lambda e: np.sum(e**2) / 2),
        ("sum", 1 / N, lambda e: np.mean(np.sum(e**2, -1))),
        ("sum", 1, lambda e: np.linalg.norm(e) ** 2),
        ("mean", 1 / N, lambda e: np.mean(e**2)),
    ],
    ids=["Nielsen-Caffe", "Mazur", "mean-distance", "squared-distance", "mean-squared-error"],
)
def test_conventions(errors, scale, weight, convention):
    y, t, e = errors
    close(evaluate(SquaredError(scale), y, t, np.full(N, float(weight)))[0], convention(e))


def test_the_first_delta_carries_the_convention(errors):
    """e, 2 e and 2 e / O, times the weight."""
    y, t, e = errors
    for scale, factor in [("half_sum", 1), ("sum", 2), ("mean", 2 / OUTPUTS)]:
        close(evaluate(SquaredError(scale), y, t, np.full(N, 1 / N))[1], factor * e / N)


# --- What does not fit -------------------------------------------------------------------------------------------

REAL, INT = np.float64, np.int32
SAME = r"need float targets of the same shape, got {} \[{}\] \(class labels become such targets with one_hot=True"


@pytest.mark.parametrize(
    ("loss", "y", "target", "kind", "text"),
    [
        (SquaredError(), (4, 3), (4,), INT, r"SquaredError: outputs \[4, 3\] " + SAME.format("integer", "4")),
        (SquaredError(), (4, 3), (4, 3), INT, r"SquaredError: outputs \[4, 3\] " + SAME.format("integer", "4, 3")),
        (SquaredError(), (4, 3), (4, 2), REAL, r"SquaredError: outputs \[4, 3\] " + SAME.format("float", "4, 2")),
        (SquaredError(), (4, 1), (4,), REAL, r"SquaredError: outputs \[4, 1\] " + SAME.format("float", "4")),
        (AbsoluteError(), (4, 3), (3,), REAL, r"AbsoluteError: outputs \[4, 3\] " + SAME.format("float", "3")),
        (Huber(), (4, 3), (1, 3), REAL, r"Huber: outputs \[4, 3\] " + SAME.format("float", "1, 3")),
        (
            BinaryCrossEntropy(),
            (4, 3),
            (4,),
            INT,
            r"BinaryCrossEntropy: outputs \[4, 3\] " + SAME.format("integer", "4"),
        ),
        (
            BinaryCrossEntropy(),
            (4, 1),
            (3,),
            INT,
            r"BinaryCrossEntropy: outputs \[4, 1\] " + SAME.format("integer", "3"),
        ),
        (
            SoftmaxCrossEntropy(),
            (4, 3),
            (3,),
            INT,
            r"SoftmaxCrossEntropy: outputs \[4, 3\] need integer classes \[4\] or float targets \[4, 3\], "
            r"got integer \[3\]",
        ),
        (SoftmaxCrossEntropy(), (4, 3), (4, 3), INT, r"got integer \[4, 3\]"),
        (SoftmaxCrossEntropy(), (4, 3), (4,), REAL, r"got float \[4\]"),
        (SoftmaxCrossEntropy(), (4, 2, 3), (4,), INT, r"need integer classes \[4, 2\] or"),
        (
            MulticlassHinge(),
            (4, 3),
            (4, 3),
            REAL,
            r"MulticlassHinge: outputs \[4, 3\] need integer classes \[4\], got float \[4, 3\]",
        ),
    ],
)
def test_targets_that_do_not_fit(loss, y, target, kind, text):
    with pytest.raises(InputError, match=text) as error:
        loss.forward(np.zeros(y), np.zeros(target, kind), np.ones(y[:-1]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("y", "weight"), [((4, 3), (3,)), ((4, 3), (4, 1)), ((4, 3), ()), ((4, 4, 3), (4,)), ((4,), (4,))]
)
def test_weights_that_do_not_fit(y, weight):
    """They would be broadcast: a value that is wrong, and a dy of another shape than y."""
    with jax.numpy_rank_promotion("allow"), pytest.raises(InputError, match="weight"):
        SquaredError().forward(np.zeros(y), np.zeros(y), np.ones(weight))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SquaredError("halfsum"), "unknown SquaredError scale 'halfsum'; did you mean 'half_sum'"),
        (lambda: Huber(0.0), "width must be a finite number above 0, got 0.0"),
        (lambda: Huber(math.nan), "width must be a finite number above 0, got nan"),
        (lambda: BinaryCrossEntropy(1.0), r"label_smoothing must be a finite number in \[0, 1\), got 1.0"),
        (lambda: SoftmaxCrossEntropy(-0.1), r"label_smoothing must be a finite number in \[0, 1\), got -0.1"),
        (lambda: SoftmaxCrossEntropy(math.nan), r"label_smoothing must be a finite number in \[0, 1\), got nan"),
        (lambda: Penalty(l2=-1.0), "l2 must be a finite number of at least 0, got -1.0"),
        (lambda: Penalty(l1=-1.0), "l1 must be a finite number of at least 0, got -1.0"),
        (lambda: Penalty(l2=math.nan), "nan"),
        (lambda: Penalty(paths=".*/b"), "chooses nothing while l2 and l1 are 0"),
        (lambda: Penalty(l2=1.0, paths="("), r"paths.*'\('"),
    ],
)
def test_impossible_settings(make, text):
    with pytest.raises(InputError, match=text):
        make()


# --- Laws of softmax cross-entropy -------------------------------------------------------------------------------

logits = hnp.arrays(np.float64, (1, 5), elements=st.floats(-1e4, 1e4))
grid = hnp.arrays(np.int64, (1, 5), elements=st.integers(-6400, 6400)).map(lambda a: a / 64)  # shifts of them are exact
soft = hnp.arrays(np.float64, (1, 5), elements=st.floats(0.01, 1)).map(lambda a: a / a.sum())
targets = st.integers(0, 4).map(lambda label: np.array([label])) | soft


@laws
@given(logits, targets)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_delta_sums_to_zero_over_the_classes(smoothing, y, t):
    _, dy = evaluate(SoftmaxCrossEntropy(smoothing), y, t, np.ones(1))
    assert abs(np.sum(dy)) <= 5 * EPS


@laws
@given(grid, targets, st.integers(-1000, 1000))
def test_a_shift_of_all_logits_changes_nothing(y, t, shift):
    value, dy = evaluate(SoftmaxCrossEntropy(), y, t, np.ones(1))
    shifted, dy_shifted = evaluate(SoftmaxCrossEntropy(), y + shift, t, np.ones(1))
    np.testing.assert_array_equal(dy_shifted, dy)
    assert abs(shifted - value) <= 4 * EPS * 1100  # rounded as the logits are
