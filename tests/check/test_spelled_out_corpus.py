"""Sixty wrong gradients in the spellings of NumPy courses: each is caught with exactly its leaves, most are named.

The diagnosis was made with a third of them. CI runs some of each part; nightly runs all, with the right ones at the
full level.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient
from proofs.spelled_out import DEVELOPMENT, FRESH, HELD_OUT

ALL = (*DEVELOPMENT, *HELD_OUT, *FRESH)
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
IN_CI = {
    "mlp with sigmoids": [],
    "softmax policy": pytest.mark.slow,
    "embedding with a residual block": pytest.mark.slow,
}
UNNAMED = {  # of the two parts that were kept out; a name that the diagnosis learns is taken off here
    "mlp with examples in columns: derivative of tanh for sigmoid",
    "cnn over time in loops: an accumulator overwritten",
    "batch norm of images: epsilon forgotten",
    "layer norm of a transformer: N for N - 1",
    "rnn of characters: slope left out on the way back in time",
    "masked attention: mask after the softmax instead of before",
    "cnn of one image with a filter in plain loops: an accumulator added to itself",
    "batch norm of units in rows: N - 1 for N",
    "lstm of gates over stacked state and input: slope of a sigmoid for the candidate's tanh",
    "decoder with two heads and a triangular mask: masked after the softmax instead of before",
    "word vectors with negative samples: the context's own vector in place of the word's",
    "language model with the embedding tied to the output: the lookup's part left out",
    "matrix factorisation by gradient descent: the second factor's delta through a stepped first",
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


def test_the_parts_and_what_is_not_named_yet():
    assert len(DEVELOPMENT) == len(HELD_OUT) == len(FRESH) == 20
    assert {exercise.name for exercise in (*HELD_OUT, *FRESH)} >= UNNAMED


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
