"""Surfaces and paths: against gradients of the loss itself, and what the literature says of them."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.analysis.surfaces import Bowl, filter_normalized, loss_slice, one_weight, path_plane, perceptron
from jaxbp.data import Embedded, Plane
from jaxbp.errors import InputError

DRAW = np.random.default_rng(0)
X, T = DRAW.normal(size=(40, 2)) * [1.5, 0.5], DRAW.normal(size=40)


def test_the_bowl_is_the_loss_of_a_linear_neuron_and_the_path_is_gradient_descent(float64):
    bowl = Bowl.of(X, T)
    loss = lambda w: jnp.mean((X @ w - T) ** 2) / 2
    start = np.array([-1.0, 2.0])
    path = bowl.path(start, 0.3, 5)
    w = start
    for place in path:
        np.testing.assert_allclose(place, w, rtol=1e-12)
        np.testing.assert_allclose(bowl.loss(place), loss(w), rtol=1e-12)
        w = w - 0.3 * jax.grad(loss)(w)
    np.testing.assert_allclose(bowl.hessian, jax.hessian(loss)(start), rtol=1e-12)


@pytest.mark.parametrize(("share", "ends"), [(0.5, True), (0.98, True), (1.02, False)])
def test_descent_ends_below_the_limit_and_diverges_above(share, ends):
    bowl = Bowl.of(X, T)
    path = bowl.path(np.array([-1.0, 2.0]), share * bowl.limit, 2000)
    assert (np.linalg.norm(path[-1] - bowl.best) < 1e-6) == ends
    assert ends or np.linalg.norm(path[-1] - bowl.best) > 1e6


def test_a_flat_bowl_is_refused():
    with pytest.raises(InputError, match="do not span the space"):
        Bowl.of(np.ones((5, 2)), np.ones(5))


def test_a_perceptron_separates_what_a_line_separates_by_its_own_rule():
    train = Plane("blobs", noise=0.3).load().train
    path = perceptron(train.x, train.y, 100)
    inputs = np.concatenate([train.x, np.ones((len(train.x), 1))], 1)
    signs = 2 * train.y - 1
    assert (signs * (inputs @ path[-1]) > 0).all()
    for before, after in pairwise(path):  # each correction adds one point that was on the wrong side
        [row] = np.flatnonzero((np.abs(after - before - signs[:, None] * inputs) < 1e-12).all(1))
        assert signs[row] * (inputs[row] @ before) <= 0
    assert len(perceptron(*plane("xor"), 3)) > 3 * 40  # xor is never separated


@pytest.mark.slow
def test_a_perceptron_separates_setosa_from_versicolor_by_two_lengths():
    """Sepals and petals of the first hundred irises: ten corrections, and none in the last pass."""
    flowers = Embedded("iris").table()[0]
    x, y = flowers.x[:100, [0, 2]], flowers.y[:100]
    path = perceptron(x, y, 100)
    assert len(path) == 11
    assert ((2 * y - 1) * (np.c_[x, np.ones(100)] @ path[-1]) > 0).all()


def plane(name):
    train = Plane(name).load().train
    return train.x, train.y


@pytest.mark.parametrize("name", ["moons", "circles", "xor", "blobs"])
def test_shapes_have_both_classes_at_their_places(name):
    splits = Plane(name, noise=0.0, examples=200).load()
    x, y = splits.train.x, splits.train.y
    assert (len(x), len(splits.test), sorted(set(y.tolist()))) == (160, 40, [0, 1])
    of = lambda c: x[y == c]
    if name == "circles":
        assert [np.ptp(np.hypot(*of(c).T)) < 1e-5 for c in (0, 1)] == [True, True]
        assert np.hypot(*of(0).T).mean() == pytest.approx(1)
        assert np.hypot(*of(1).T).mean() == pytest.approx(0.5)
    if name == "xor":
        assert {tuple(row) for row in of(0).tolist()} == {(-1, -1), (1, 1)}
        assert {tuple(row) for row in of(1).tolist()} == {(-1, 1), (1, -1)}
    if name == "moons":
        assert [bool((side > -1e-6).all()) for side in (of(0)[:, 1], 0.5 - of(1)[:, 1])] == [True, True]


PARAMS = {"w": jnp.array([[3.0, 4.0], [0.5, -1.0], [2.0, 2.0]]), "b": jnp.array([1.0, 2.0, 3.0])}


def test_a_random_direction_has_filters_as_long_as_the_weights():
    direction = filter_normalized(jax.random.key(0), PARAMS)
    np.testing.assert_allclose(*(np.linalg.norm(tree["w"], axis=1) for tree in (direction, PARAMS)), rtol=1e-6)
    assert not direction["b"].any()


def test_a_slice_is_the_loss_there_and_the_plane_of_a_plane_path_is_its_own():
    loss = lambda p: jnp.sum(p["w"] ** 2) + p["b"][1]
    one = one_weight(PARAMS, "w", (1, 0))
    other = one_weight(PARAMS, "b", (1,))
    steps = [np.array([-1.0, 0.0, 2.0]), np.array([0.0, 5.0])]
    losses = loss_slice(loss, PARAMS, [one, other], steps)
    for i, a in enumerate(steps[0]):
        for j, b in enumerate(steps[1]):
            assert losses[i, j] == pytest.approx(float(loss(PARAMS)) - 0.25 + (0.5 + a) ** 2 + b, rel=1e-5)
    move = lambda a, b: jax.tree.map(lambda p, d, e: p + a * d + b * e, PARAMS, one, other)
    seen = path_plane([move(3, 1), move(2, -1), move(1, 0.5), move(0, 0)])
    assert sum(seen.shares) == pytest.approx(1)
    for place, (a, b) in zip(seen.places, [(3, 1), (2, -1), (1, 0.5), (0, 0)], strict=True):
        there = jax.tree.map(lambda d, e: place[0] * d + place[1] * e, *seen.directions)  # noqa: B023
        assert (float(there["w"][1, 0]), float(there["b"][1])) == pytest.approx((a, b), abs=1e-5)
    with pytest.raises(InputError, match=r"no weight w\[7, 0\]; the parameters are b \[3\], w \[3, 2\]"):
        one_weight(PARAMS, "w", (7, 0))
