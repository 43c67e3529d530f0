"""What is said of matrix capsules: poses turn with the poses below, and routing makes the votes agree."""

import jax
import numpy as np
import pytest

from jaxbp import MatrixCapsules
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]


RANDOM = np.random.default_rng(0)
POSES, ACTIVATIONS = RANDOM.normal(size=(2, 5, 4, 4)), RANDOM.uniform(0.1, 1, size=(2, 5))
PARAMS = {"w": RANDOM.normal(size=(5, 3, 4, 4)) / 2, "beta_u": np.zeros(3), "beta_a": np.zeros(3)}


def test_another_view_of_all_poses_turns_the_poses_above_and_leaves_the_activations():
    """T M_i W_ij for M_i W_ij gives T m_j and the same a_j: T permutes rows and turns signs, as the variances allow."""
    layer = MatrixCapsules(3)
    view = np.eye(4)[[2, 0, 3, 1]] * [1, -1, -1, 1]
    capsules = jax.jit(lambda poses: layer.forward(PARAMS, (poses, ACTIVATIONS))[0])
    above, active = capsules(POSES)
    turned, still_active = capsules(view @ POSES)
    np.testing.assert_allclose(turned, view @ above, atol=1e-13)
    np.testing.assert_allclose(still_active, active, atol=1e-13)


def test_the_votes_agree_more_from_round_to_round():
    """sum_ijh R'_ij (V_ijh - m_jh)^2, what each capsule's votes differ by, does not rise."""
    layer = MatrixCapsules(3, rounds=6, epsilon=0.1)
    votes = np.asarray(layer.votes(PARAMS, POSES))
    routed = jax.jit(lambda votes: layer.routed(PARAMS, votes, ACTIVATIONS))(votes)
    spread = [
        np.einsum("nij,nijh->", shares * ACTIVATIONS[..., None], (votes - mean[:, None]) ** 2)
        for shares, _, mean, _, _ in jax.tree.map(np.asarray, routed)
    ]
    assert np.all(np.diff(spread) <= 1e-6), spread
    assert spread[2] < spread[0] / 2


def test_three_rounds_of_4_x_4_poses_have_the_gradient_of_autodiff():
    layer = MatrixCapsules(3, epsilon=0.1)
    dy = RANDOM.normal(size=(2, 3, 4, 4)), RANDOM.normal(size=(2, 3))

    @jax.jit
    def both(params, x):
        capsules = lambda params, x: layer.forward(params, x)[0]
        dparams, dx = jax.vjp(capsules, params, x)[1](dy)
        return layer.backward(params, layer.forward(params, x)[1], dy), (dx, dparams)

    assert worst(*both(PARAMS, (POSES, ACTIVATIONS))) <= FLOAT64_TOLERANCE
