"""A line of the hand-written gradient that makes it right once it is mended is named, with what it lacks."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import Cause, check_function, check_gradient, guard
from jaxbp.check.diagnosis import simulation
from jaxbp.check.diagnosis.flow import flow_of
from jaxbp.check.diagnosis.jaxprs import traced
from jaxbp.check.diagnosis.rerun import Change, Evaluated
from tests.support.attention import attention as shipped
from tests.support.attention import inputs

pytestmark = pytest.mark.slow

rng = np.random.default_rng(5)
X, Y = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
W, A = rng.normal(size=(4, 3)), rng.normal(size=(4, 4))


def first_cause(gradient, loss, *arguments):
    report = check_gradient(gradient, loss, *arguments)
    assert not report.passed
    return report.leaves[0].causes[0]


def test_lines_are_run_again_with_all_changes_at_once(float64):
    """Against the program run anew for each change, through moved numbers, reductions and products."""
    function = lambda w: jnp.sum(jnp.tanh(w).at[1:3].set(w[0:2] * w[2:4]) @ jnp.ones(3)) * w
    program = Evaluated(flow_of(traced(function, jnp.asarray(W))[0]), (W,))
    line = next(op for op in program.flow.ops if op.name == "mul")
    changes = [Change(None, lambda v, run, operands, c=c: c * v) for c in (1.0, 2.0, -3.0)]
    rows = program.again([line], changes)[0]
    for row, c in zip(rows, (1.0, 2.0, -3.0), strict=True):
        anew = jnp.sum(jnp.tanh(W).at[1:3].set(c * W[0:2] * W[2:4]) @ jnp.ones(3)) * W
        np.testing.assert_allclose(row, anew, rtol=1e-12)


def loop_gradient(p, x, y):
    """Of `loop_loss`, in NumPy, whose accumulator keeps the last example only."""
    d = np.zeros(p.shape)
    for row, target in zip(x, y, strict=True):
        for j in range(p.shape[1]):
            error = np.tanh(row @ p[:, j]) - target[j]
            d[:, j] = error * (1 - np.tanh(row @ p[:, j]) ** 2) * row
    return d


def loop_loss(p, x, y):
    return np.sum((np.tanh(x @ p) - y) ** 2) / 2


def test_an_accumulator_that_is_assigned_in_a_loop_over_all():
    cause = first_cause(loop_gradient, loop_loss, W, X, Y)
    assert cause.cause is Cause.OVERWRITTEN
    assert "(test_repairs.py:" in cause.text


def normed(z, count=0, eps=0.01):
    c = z - z.mean(1, keepdims=True)
    return c, jnp.sqrt((c**2).sum(1, keepdims=True) / (z.shape[1] - count) + eps)


def norm_loss(w, x, y):
    c, s = normed(x @ w, count=1)
    return jnp.sum((c / s - y) ** 2) / 2


def norm_gradient(w, x, y, n=2, eps=0.01, square=2):
    c, s = normed(x @ w, count=1)
    d = c / s - y
    other = normed(x @ w, count=1, eps=eps)[1]
    dc = d / s - c / n * (d * c).sum(1, keepdims=True) / other / s**square
    return x.T @ (dc - dc.mean(1, keepdims=True))


@pytest.mark.parametrize(
    ("change", "cause", "text"),
    [
        ({"n": 3}, Cause.FACTOR, "N stands for N - 1"),
        ({"eps": 0}, Cause.FACTOR, "the epsilon is forgotten: 0.01 of 'add' (test_repairs.py:"),
        ({"square": 1}, Cause.FACTOR, "is left out"),
    ],
    ids=["N for N - 1", "epsilon", "square"],
)
def test_numbers_in_a_norm_however_they_are_grouped(change, cause, text):
    assert check_gradient(norm_gradient, norm_loss, W, X, Y).passed
    likeliest = first_cause(lambda *args: norm_gradient(*args, **change), norm_loss, W, X, Y)
    assert likeliest.cause is cause
    assert text in likeliest.text


def attention(w, x, masked):
    s = x @ w @ x.T
    e = jnp.exp(jnp.where(np.tri(5) > 0, s, -1e9) if masked else s)
    return e / e.sum(1, keepdims=True) * (1 if masked else np.tri(5))


def attention_gradient(w, x, y, masked=False):
    a = attention(w, x, masked)
    da = (a @ x - y) @ x.T
    return x.T @ (a * (da - (a * da).sum(1, keepdims=True))) @ x


def test_a_mask_after_the_softmax_in_the_gradient_alone():
    loss = lambda w, x, y: jnp.sum((attention(w, x, True) @ x - y) ** 2) / 2
    target = rng.normal(size=(5, 4))
    assert check_gradient(lambda *args: attention_gradient(*args, masked=True), loss, A, X, target).passed
    assert "mask" in first_cause(attention_gradient, loss, A, X, target).text


def arctan_loss(w, x, y):
    return jnp.sum((jnp.arctan(x @ w) - y) ** 2) / 2


def arctan_gradient(w, x, y):
    a = jnp.arctan(x @ w)
    return x.T @ ((a - y) * (1 - a**2))


def test_a_slope_that_another_function_has():
    cause = first_cause(arctan_gradient, arctan_loss, W, X, Y)
    assert cause.cause is Cause.SLOPE
    assert "of 'atan'" in cause.text
    assert "tanh" in cause.text


def test_an_accumulator_that_is_added_to_itself():
    loss = lambda w, x: sum(jnp.sum(jnp.sin(row @ w)) for row in x)

    def gradient(w, x):
        total = jnp.zeros_like(w)
        for row in x:
            total += total + jnp.outer(row, jnp.cos(row @ w))
        return total

    assert first_cause(gradient, loss, W, X).cause is Cause.TWICE


SHIPPED = {
    "no slope of the cap": ({"cap": 2.0}, "the derivative is left out of the function written out"),
    "dropout twice": ({"dropout": 0.3}, "the mask .* is applied once too often"),
    "D of another output": ({"dropout": 0.3}, "the mask .* is left out"),
    "mask after cap": ({"causal": True, "cap": 2.0}, "the mask of 'select_n' .* is not on the loss's way"),
    "group not summed": ({}, "a group's sum is left out"),
    "layout": ({}, r"its axes in the order \(0, 2, 3, 1, 4\), reshaped"),
}


@pytest.mark.parametrize(
    "mistake", [m if m in ("dropout twice", "layout") else pytest.param(m, marks=pytest.mark.nightly) for m in SHIPPED]
)
def test_the_mistakes_of_shipped_attention_are_named(mistake):
    """The lines are those of the custom rule's backward."""
    options, words = SHIPPED[mistake]
    report = check_function(shipped(mistake), *inputs(), **options)
    failed = [leaf for leaf in report.leaves if not leaf.passed]
    assert failed
    for leaf in failed:
        assert any(re.search(words, cause.text) for cause in leaf.causes)
        assert "attention.py:" in leaf.causes[0].text or mistake == "layout"


def test_a_search_that_fails_leaves_a_line(monkeypatch):
    def fail(*args):
        raise TypeError("no such line")

    monkeypatch.setattr(simulation, "Repairs", fail)
    monkeypatch.setattr(guard, "RAISES", False)
    report = check_gradient(arctan_gradient, arctan_loss, W, X, Y)
    assert not report.passed
    assert "diagnosis: it raised TypeError: no such line" in str(report)
