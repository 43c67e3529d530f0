"""Forty wrong gradients in the spellings of NumPy courses: each is caught with exactly its leaves, most are named.

Half of them were kept out of the making of its first version. CI runs some of either half; nightly runs all, with the
right ones at the full level.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient
from proofs.spelled_out import DEVELOPMENT, FAMILIES, HELD_OUT

NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
IN_CI = {
    "mlp with sigmoids": [],
    "softmax policy": pytest.mark.slow,
    "embedding with a residual block": pytest.mark.slow,
}


def exercises():
    """Each exercise in the suite that it belongs to."""
    marks = lambda exercise: IN_CI.get(exercise.topic, NIGHTLY)
    return [pytest.param(e, id=e.name, marks=marks(e)) for e in (*DEVELOPMENT, *HELD_OUT)]


@pytest.mark.parametrize("exercise", exercises())
def test_the_wrong_one_is_caught_and_named_and_the_right_one_passes(exercise):
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    _, wrong = exercise.functions(wrong=True)
    assert check_gradient(right, loss, params, *batch).passed
    report = check_gradient(wrong, loss, params, *batch)
    assert exercise.caught(report), str(report)
    assert exercise.named(report), str(report)


UNNAMED = {  # a name that the diagnosis learns is taken off here
    "masked attention by adding a large number: sum over the wrong axis",
    "attention query by query: softmax's derivative left out",
}


def variations():
    """Each variation's family and mistake; a few in CI."""
    few = {
        "softmax classifier in columns with one-hot targets: slope of tanh",
        "masked attention by adding a large number: mask after the softmax",
    }
    names = ((family, f"{family.topic}: {mistake[0]}") for family in FAMILIES for mistake in family.mistakes)
    marks = lambda name: pytest.mark.slow if name in few else NIGHTLY
    return [pytest.param(family, name, id=name, marks=marks(name)) for family, name in names]


@pytest.mark.parametrize(("family", "name"), variations())
def test_a_variation_is_caught_and_named(family, name):
    exercise = family.exercise(name.removeprefix(f"{family.topic}: "))
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    _, wrong = exercise.functions(wrong=True)
    assert check_gradient(right, loss, params, *batch).passed
    report = check_gradient(wrong, loss, params, *batch)
    assert exercise.caught(report), str(report)
    assert exercise.named(report) == (name not in UNNAMED), str(report)


def test_the_halves():
    assert len(DEVELOPMENT) == len(HELD_OUT) == 20


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("exercise", [pytest.param(e, id=e.name) for e in (*DEVELOPMENT, *HELD_OUT)])
def test_the_right_one_passes_at_the_full_level(exercise):
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    report = check_gradient(right, loss, params, *batch, level="full")
    assert report.passed, str(report)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("exercise", [pytest.param(e, id=e.name) for e in (*DEVELOPMENT, *HELD_OUT)])
def test_the_right_one_is_the_derivative(exercise, float64):
    """Of autodiff; of central differences where the loss assigns to entries."""
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    if "out[:" in exercise.source:
        truth, tolerance = differences(loss, params, batch), 1e-8
    else:
        traceable, _ = exercise.functions(numpy=jnp)
        truth, tolerance = jax.grad(traceable)(jax.tree.map(jnp.asarray, params), *map(jnp.asarray, batch)), 1e-10
    _, wrong = exercise.functions(wrong=True)
    error = lambda gradient, k: np.abs(gradient[k] - truth[k]).max() / np.abs(truth[k]).max()
    assert max(error(right(params, *batch), k) for k in params) < tolerance
    assert {k for k in params if error(wrong(params, *batch), k) > 1e-4} == exercise.leaves


def differences(loss, params, batch):
    """By entries, to fourth order."""

    def slope(k, i):
        unit = np.eye(1, params[k].size, i).reshape(params[k].shape)
        along = lambda h: (loss(params | {k: params[k] + h * unit}, *batch)) / h
        central = lambda h: (along(h) + along(-h)) / 2
        return (4 * central(5e-5) - central(1e-4)) / 3

    return {k: np.array([slope(k, i) for i in range(a.size)]).reshape(a.shape) for k, a in params.items()}
