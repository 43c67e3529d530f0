"""The full level where autodiff is wrong at another point than the problem's own: differences decide there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_gradient

pytestmark = pytest.mark.slow
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(6, 3)), rng.integers(0, 2, 6).astype(float)


def logistic_loss(w, x, y):
    """It is smooth, and at z = 0 autodiff adds half of a slope and none of another."""
    z = x @ w
    return jnp.mean(jnp.maximum(z, 0) - z * y + jnp.log1p(jnp.exp(-jnp.abs(z))))


def slope(w, x, y):
    return x.T @ (jax.nn.sigmoid(x @ w) - y) / len(y)


def findings(gradient, loss=logistic_loss, w=rng.normal(size=3)):
    report = check_gradient(gradient, loss, w, X, Y, level="full")
    return report, {finding.method: finding for finding in report.findings}


def test_a_right_gradient_passes_where_autodiff_is_wrong():
    report, by_name = findings(slope)
    assert report.passed
    text = by_name["every leaf 0"].text
    assert text == "autodiff is wrong here: differences are with the hand-written params"


@pytest.mark.parametrize(
    "wrong", [lambda w, x, y: 2 * slope(w, x, y), lambda w, x, y: -slope(w, x, y), lambda w, x, y: w + 1e-3]
)
def test_a_wrong_one_fails_there(wrong):
    at_zero = lambda w, x, y: jnp.where(jnp.all(w == 0), wrong(w, x, y), slope(w, x, y))
    report, by_name = findings(at_zero)
    assert [leaf.passed for leaf in report.leaves] == [True]
    assert by_name["every leaf 0"].passed is False


def test_a_large_leaf_is_asked_in_some_entries_and_as_a_whole():
    size = 50
    x = rng.normal(size=(6, size))
    right = lambda w: x.T @ (jax.nn.sigmoid(x @ w) - Y) / 6
    loss = lambda w: logistic_loss(w, x, Y)
    one_entry = lambda w: right(w) + jnp.where(jnp.all(w == 0), 1e-3, 0) * (jnp.arange(size) == 33)
    for gradient, passed in ((right, True), (one_entry, False)):
        assert check_gradient(gradient, loss, rng.normal(size=size), level="full").passed == passed


def test_a_kink_at_zero_is_one():
    report, by_name = findings(lambda w, x, y: jnp.where(w > 0, 1.0, 0), lambda w, x, y: jnp.sum(jnp.maximum(w, 0)))
    assert report.passed
    assert by_name["every leaf 0"].text == "a kink: params takes another side's slope than autodiff"


def test_no_slope_at_all_ties_breaks_no_law():
    """relu(w) - 2 relu(-w) has the slopes 1 and 2 at 0. relu'(0) = 0 gives 0 there, as everybody writes it."""
    loss = lambda w: jnp.sum(jnp.maximum(w, 0) - 2 * jnp.maximum(-w, 0))
    report = check_gradient(lambda w: 1.0 * (w > 0) + 2.0 * (w < 0), loss, jnp.array([0.7]), level="full")
    assert report.passed, str(report)
    (finding,) = [finding for finding in report.findings if finding.method == "every leaf 0"]
    assert finding.passed is None
    assert finding.text.endswith("takes another slope than autodiff at all ties")


def test_a_parameter_with_the_rows_of_the_batch_has_no_other_batch():
    """One row of ratings would be broadcast over all users."""
    ratings = jnp.arange(12.0).reshape(3, 4)
    loss = lambda p, ratings: jnp.sum((p["u"] @ p["v"].T - ratings) ** 2)

    def gradient(p, ratings):
        delta = 2 * (p["u"] @ p["v"].T - ratings)
        return {"u": delta @ p["v"], "v": delta.T @ p["u"]}

    report = check_gradient(gradient, loss, {"u": jnp.ones((3, 2)), "v": jnp.ones((4, 2))}, ratings, level="full")
    assert report.passed, str(report)
    assert "not asked: u has 3 rows too" in str(report)


def test_rounding_far_out_is_told_from_a_wrong_derivative():
    tenth = lambda w: 0.1 * jnp.sum(w)
    cubes = lambda a: a * a * a / 3 - (a / 3) * a * a  # 0 but for rounding
    cancelling = lambda w: 0.1 + jax.lax.stop_gradient(cubes(w * jnp.array([1, 0.7, 0.3])))
    wrong_far_out = lambda w: jnp.where(jnp.abs(w) > 1e3, 0.101, 0.1)
    right, wrong = (check_gradient(g, tenth, rng.normal(size=3), level="full") for g in (cancelling, wrong_far_out))
    by_name = lambda report: {finding.method: finding for finding in report.findings}
    assert right.passed
    assert by_name(right)["every leaf 10000"].text.startswith("rounding decides here: by the last digits of the leaves")
    assert by_name(wrong)["every leaf 10000"].passed is False
