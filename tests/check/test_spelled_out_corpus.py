"""Sixty wrong gradients in the spellings of NumPy courses: each is caught with exactly its leaves, most are named.

The diagnosis was made with the first two parts of them; nobody who made it has seen the third. CI runs some of each
part; nightly runs all, with the right ones at the full level.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient
from proofs.spelled_out import DEVELOPMENT, FAMILIES, FRESH, HELD_OUT

ALL = (*DEVELOPMENT, *HELD_OUT, *FRESH)
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
IN_CI = {
    "mlp with sigmoids": [],
    "softmax policy": pytest.mark.slow,
    "cnn with pooling by reshape": pytest.mark.slow,  # asks which entries equal their maximum
    "embedding with a residual block": pytest.mark.slow,
}
UNNAMED = {  # of the part that nobody who made the diagnosis has seen
    "cnn of one image with a filter in plain loops: an accumulator added to itself",
    "word vectors with negative samples: the context's own vector in place of the word's",
    "language model with the embedding tied to the output: the lookup's part left out",
}


def exercises():
    """Each exercise in the suite that it belongs to."""
    marks = lambda exercise: IN_CI.get(exercise.topic, NIGHTLY)
    return [pytest.param(e, id=e.name, marks=marks(e)) for e in ALL]


@pytest.mark.parametrize("exercise", exercises())
def test_the_wrong_one_is_caught_and_named_and_the_right_one_passes(exercise):
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    _, wrong = exercise.functions(wrong=True)
    assert check_gradient(right, loss, params, *batch).passed
    report = check_gradient(wrong, loss, params, *batch)
    assert exercise.caught(report), str(report)
    assert exercise.named(report) == (exercise.name not in UNNAMED), str(report)


UNNAMED_VARIATIONS = {  # a name that the diagnosis learns is taken off here
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
    assert exercise.named(report) == (name not in UNNAMED_VARIATIONS), str(report)


def test_the_parts():
    assert len(DEVELOPMENT) == len(HELD_OUT) == len(FRESH) == 20
    assert {exercise.name for exercise in FRESH} >= UNNAMED


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("exercise", [pytest.param(e, id=e.name) for e in ALL])
def test_the_right_one_passes_at_the_full_level(exercise):
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    report = check_gradient(right, loss, params, *batch, level="full")
    assert report.passed, str(report)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("exercise", [pytest.param(e, id=e.name) for e in ALL])
def test_the_right_one_is_the_derivative(exercise, float64):
    """Of autodiff; of central differences where the loss assigns to entries, or was not written for JAX."""
    params, *batch = exercise.inputs()
    loss, right = exercise.functions()
    if exercise in FRESH or "out[:" in exercise.source:
        truth, tolerance = differences(loss, params, batch), 1e-8
    else:
        traceable, _ = exercise.functions(numpy=jnp)
        truth, tolerance = jax.grad(traceable)(jax.tree.map(jnp.asarray, params), *map(jnp.asarray, batch)), 1e-10
    _, wrong = exercise.functions(wrong=True)
    error = lambda gradient, true: np.abs(gradient - true).max() / np.abs(true).max()
    errors = lambda gradient: jax.tree.map(error, as_nested(gradient, params), truth)
    assert max(jax.tree.leaves(errors(right(params, *batch)))) < tolerance
    flat, _ = jax.tree_util.tree_flatten_with_path(errors(wrong(params, *batch)))
    assert {jax.tree_util.keystr(k, simple=True, separator="/") for k, e in flat if e > 1e-4} == exercise.leaves


def as_nested(gradient, params):
    """The gradient's leaves where the parameters have theirs: a tuple may stand for a list."""
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(gradient))


def differences(loss, params, batch):
    """By entries, to fourth order."""
    leaves, structure = jax.tree.flatten(params)

    def slope(k, i):
        unit = np.eye(1, leaves[k].size, i).reshape(leaves[k].shape)
        moved = lambda h: structure.unflatten([*leaves[:k], leaves[k] + h * unit, *leaves[k + 1 :]])
        along = lambda h: loss(moved(h), *batch) / h
        central = lambda h: (along(h) + along(-h)) / 2
        return (4 * central(5e-5) - central(1e-4)) / 3

    by_entry = lambda k, a: np.array([slope(k, i) for i in range(a.size)]).reshape(a.shape)
    return structure.unflatten([by_entry(k, a) for k, a in enumerate(leaves)])
