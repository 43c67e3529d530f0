"""Comparisons of bench.choices, and what small nets say of choices: logistic regression, weights from 0 to 1."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from bench import choices
from bench.choices import Comparison, Line, over_choices, over_epochs, places_and_points, table
from bench.comparisons import COMPARISONS, LENET_192
from jaxbp.check import assert_model
from jaxbp.config import load
from jaxbp.core import Context
from jaxbp.training.many import Outcome
from tests.support.paths import ROOT

RATE = "optimizer.learning_rate"


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_choice_makes_a_config_of_its_own(name):
    comparison = replace(COMPARISONS[name], seeds=1)
    points = [point for _, point in places_and_points(comparison)]
    assert len({point.config for point in points}) == len(points)


def test_outcomes_stand_at_their_places(monkeypatch):
    """Runs of one program go at once, here both rates of each seed; each run is given back as its rate and seed."""
    config = load(ROOT / "configs/xor.py")
    comparison = Comparison(config, {"xor": {0.5: {RATE: 0.5}, 0.1: {RATE: 0.1}}}, "rate", seeds=2)
    kinds = lambda points, data, at_once: [
        [(point, point.config) for point in points if point.config.run.seed == s] for s in (1, 0)
    ]
    monkeypatch.setattr(choices, "grouped", kinds)
    monkeypatch.setattr(
        choices, "run_many", lambda configs, splits, bar: [(c.optimizer.learning_rate, c.run.seed) for c in configs]
    )
    outcomes, seconds = choices.runs(comparison)
    assert outcomes == {("xor", 0.5): [(0.5, 1), (0.5, 0)], ("xor", 0.1): [(0.1, 1), (0.1, 0)]}
    assert seconds.keys() == outcomes.keys()


def outcome(*losses, failed=None):
    return Outcome(None, [{"epoch": i + 1, "test_loss": loss} for i, loss in enumerate(losses)], failed)


def test_lines_have_means_and_deviations_over_the_seeds():
    comparison = Comparison(None, {"a": {0.1: {}, 1.0: {}}}, "rate", ("test_loss",), by_epoch=True)
    outcomes = {("a", 0.1): [outcome(4.0, 1.0), outcome(4.0, 3.0)], ("a", 1.0): [outcome(5.0, failed="loss")] * 2}
    line = over_choices(comparison, outcomes, {("a", 0.1): 2.5, ("a", 1.0): 1.0})["a"]
    assert (line.x, line.means[0], line.deviations[0]) == ([0.1, 1.0], 2.0, 1.0)
    assert np.isnan(line.means[1]), "a run that failed has no figure"
    best = over_epochs(comparison, outcomes)["a, rate 0.1"]
    assert (best.x, list(best.means)) == ([1, 2], [4.0, 2.0])
    rows = table("rate", {"a": line, "b": Line([2], np.array([1.0]), np.array([0.0]))}).splitlines()
    assert rows[0] == "| rate | a | b |"
    assert rows[2:] == ["| 0.1 | 2 +- 1 (2.5 s) |  |", "| 1.0 | nan +- nan (1 s) |  |", "| 2 |  | 1 +- 0 |"]


def newton(x, t, l2):
    """Logistic regression by Newton's steps (iteratively reweighted least squares): weights, the bias last."""
    x = np.hstack([x, np.ones((len(x), 1))])
    penalty = l2 * np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    w = np.zeros(x.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-x @ w))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) / len(x) + penalty
        w -= np.linalg.solve(hessian, x.T @ (p - t) / len(x) + penalty @ w)
    return w


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (8,)], ids=str)
def test_a_last_sigmoid_unit_is_logistic_regression_on_what_lies_below(hidden):
    """Its gradient is zero where Newton's method and scikit-learn end, on the inputs or on hidden activations."""
    from sklearn.linear_model import LogisticRegression

    config = load(ROOT / "configs/logistic.py")
    part = config.load_data().train
    x, t = part.x.astype(float), part.y.astype(float)
    draw = np.random.default_rng(0)
    below = {"w": draw.normal(size=(*hidden, 30)) / 6, "b": draw.normal(size=hidden)}
    features = np.tanh(x @ below["w"].T + below["b"]) if hidden else x
    w = newton(features, t, config.penalty.l2)
    last = {"w": w[None, :-1], "b": w[-1:]}
    layers = [jaxbp.Dense(8), jaxbp.Tanh(), jaxbp.Dense(1)] if hidden else [jaxbp.Dense(1)]
    params = {"00_dense": below, "01_tanh": {}, "02_dense": last} if hidden else {"00_dense": last}
    with jax.enable_x64(True):
        model = jaxbp.Chain(*layers)
        gradient = jaxbp.optim.Objective(model, config.loss, (config.penalty,)).gradient()
        slopes = jax.jit(gradient)(params, jaxbp.batch(x, t[:, None])).grads[list(params)[-1]]
    np.testing.assert_allclose(np.concatenate([slopes["w"][0], slopes["b"]]), 0, atol=1e-12)
    peer = LogisticRegression(tol=1e-8, max_iter=1000).fit(features, t)
    np.testing.assert_allclose(w, [*peer.coef_[0], *peer.intercept_], atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "init", "least", "largest"),
    [(2, "uniform", 0.1, 0.25), (784, "uniform", 0, 0), (784, "glorot_normal", 0.15, 0.25)],
)
def test_weights_from_0_to_1_saturate_a_wide_layer(inputs, init, least, largest):
    """Their sum over I inputs in [0, 1] is about I / 4. The slope of a sigmoid there is exp(-I / 4), at last zero."""
    x = jax.random.uniform(jax.random.key(0), (5, inputs))
    dense = jaxbp.Dense(7, w_init=init)
    z = dense.forward(dense.init(jax.random.key(1), x), x, Context())[0]
    y, cache = jaxbp.Sigmoid().forward({}, z, Context())
    slope = float(jaxbp.Sigmoid().backward({}, cache, jnp.ones_like(y))[0].mean())
    assert least <= slope <= largest


def test_the_net_of_twelve_maps_of_4_x_4_joins_192_numbers():
    x = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)
    params = jax.eval_shape(LENET_192.init, jax.random.key(0), x)
    before = jaxbp.Chain(LENET_192.layers[:6])
    maps = jax.eval_shape(lambda params, x: before.forward(params, x, Context())[0], params, x)
    assert maps.shape == (3, 4, 4, 12)
    assert sum(p.size for p in jax.tree.leaves(params)) == (25 * 6 + 6) + (25 * 6 * 12 + 12) + (192 * 10 + 10)


@pytest.mark.nightly
@pytest.mark.slow
def test_the_gradient_of_the_net_of_twelve_maps_is_right():
    x = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    assert_model(LENET_192, x, loss=jaxbp.SoftmaxCrossEntropy(), target=jnp.array([3, 7]))
