"""np.array of what JAX traces: copies, and arrays made of lists of arrays and numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient
from jaxbp.check.numpy_trace import traceable

X = np.random.default_rng(0).normal(size=(4, 3))


def stacked(w):
    h = np.array([np.tanh(row @ w) for row in X])
    copy = np.array(h, copy=True)
    copy[0] = 0
    return np.sum(copy**2) + np.sum(h) + np.array([h[2], h[3]], dtype=float)[1] + np.array([1.0, 2.0]).sum()


def test_a_copy_is_one_and_a_list_is_stacked(float64):
    w = np.array([0.3, -0.2, 0.5])
    followed = jax.jit(traceable(stacked))(jnp.asarray(w))
    np.testing.assert_allclose(followed, stacked(w), rtol=1e-12)


@pytest.mark.slow
def test_the_full_level_of_numpy_code_that_is_followed_names_the_precisions_it_leaves_out():
    report = check_gradient(
        lambda w, x: x.T @ (1 - np.tanh(x @ w) ** 2),
        lambda w, x: np.sum(np.tanh(x @ w)),
        np.array([0.3, -0.2, 0.5]),
        X,
        level="full",
    )
    texts = {finding.method: finding.text for finding in report.findings}
    assert report.passed
    assert texts["float32"] == texts["bfloat16"] == "not asked: NumPy code is checked in float64 alone"
