"""Second-order optimizers against the equations they stand for, and optax; privacy; the noise scale in training."""

import functools
import json
import re
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp import Context, optim
from jaxbp.analysis import matrices, per_example
from jaxbp.check import worst
from jaxbp.config import Config, Run, load
from jaxbp.data import Embedded, Encoder
from jaxbp.losses import AbsoluteError, BinaryCrossEntropy, Penalty, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.optim import SGD, Objective, OptimizerConfig, Private, levenberg_marquardt, natural_gradient, newton
from jaxbp.optim.natural_gradient import fisher_rows, updated
from jaxbp.optim.newton import conjugate_gradient
from jaxbp.training.loop import train
from jaxbp.training.step import accumulated
from tests.support.optim import CTX, problem, updates
from tests.support.paths import ROOT
from tests.support.runs import weights

# --- Newton, Gauss-Newton, natural gradient, K-FAC, L-BFGS -----------------------------------------------------------


@pytest.mark.usefixtures("float64")
def test_conjugate_gradients():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 5)), jnp.asarray(random.normal(size=5))
    positive = jnp.asarray(a @ a.T + np.eye(5))
    solve = lambda a, tolerance=1e-10: conjugate_gradient(lambda v: a @ v, b, 20, tolerance)
    assert worst(solve(positive), jnp.linalg.solve(positive, b)) <= 1e-9
    loose = solve(positive, 0.1)
    assert 1e-9 < jnp.linalg.norm(b - positive @ loose) / jnp.linalg.norm(b) <= 0.1
    assert worst(solve(-positive), b) == 0  # negative from the start: the right-hand side
    indefinite = jnp.diag(jnp.array([3.0, 2, 1, 1, -1]))
    x = solve(indefinite)
    assert x @ indefinite @ x > 0
    assert x @ b > 0


QUICK = {  # where the curvature is the same everywhere, one step reaches the minimum
    "newton": lambda o: newton(o, "hessian", tolerance=1e-12),
    "gauss_newton": lambda o: newton(o, "gauss_newton", tolerance=1e-12),
    "natural": lambda o: natural_gradient(o, 1.0, 1e-12),
    "lm": lambda o: levenberg_marquardt(o, 1e-12),
    "kfac": lambda o: optim.kfac(o, optim.KFAC(damping=1e-9, least=1e-12)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "newton" else pytest.mark.slow) for name in QUICK]
)
def test_one_step_solves_a_quadratic(name):
    model = jaxbp.Dense(2, bias=False)
    _, _, batch = problem()
    objective = Objective(model, SquaredError(), (), problem()[0].spec)
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    steps = 30 if name == "kfac" else 1  # its targets are drawn: the rows' factor is an estimate
    after, _, _ = updates(QUICK[name](objective), objective, params, batch, steps)
    assert worst(after["w"], jnp.linalg.lstsq(batch["x"], batch["y"])[0].T) <= 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_newton_and_gauss_newton_go_down_and_converge():
    objective, params, batch = problem(BinaryCrossEntropy(), (Penalty(l2=0.01),))
    for matrix in ("hessian", "gauss_newton"):
        after, _, values = updates(newton(objective, matrix, tolerance=1e-3), objective, params, batch, steps=30)
        assert np.all(np.diff(values) <= 1e-12)
        grads = objective.gradient()(after, batch, CTX).grads
        assert jnp.linalg.norm(ravel_pytree(grads)[0]) <= 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loss", [SquaredError(), BinaryCrossEntropy()])
def test_natural_gradients_are_those_of_the_dense_fisher_matrix(loss):
    objective, params, batch = problem(loss, (Penalty(l2=0.1),))
    dense = matrices.dense(lambda v: objective.gauss_newton(params, batch, v, CTX), params)
    a = fisher_rows(objective, params, batch, CTX)
    assert worst(a.T @ a, dense) <= 1e-10
    after, _, _ = updates(natural_gradient(objective, 0.5, 0.01), objective, params, batch)
    g = ravel_pytree(objective.gradient()(params, batch, CTX).grads)[0]
    step = ravel_pytree(jax.tree.map(jnp.subtract, after, params))[0]
    assert worst(step, -0.5 * jnp.linalg.solve(dense + 0.01 * jnp.eye(len(g)), g)) <= 1e-10


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_adaptive_inverse_follows_the_averaged_fisher_matrix():
    random = np.random.default_rng(0)
    rate, damping, size = 0.01, 1e-2, 6
    fisher, inverse = np.eye(size) * (1 - damping), jnp.eye(size)
    for _ in range(300):
        a = random.normal(size=(2, size)) * [1, 1, 1, 0.1, 0.1, 0]  # a direction that never comes
        fisher = (1 - rate) * fisher + rate * a.T @ a
        inverse = updated(inverse, jnp.asarray(a), rate, damping)
    expected = np.linalg.inv(fisher + damping * np.eye(size))
    assert np.abs(inverse - expected).max() <= 0.02 * np.abs(expected).max()
    assert np.linalg.eigvalsh(inverse).min() > 0
    assert np.linalg.eigvalsh(inverse).max() <= 1 / damping


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_lbfgs_is_optaxs():
    objective, params, batch = problem(BinaryCrossEntropy(), (Penalty(l2=0.01),))
    ours, _, values = updates(optim.LBFGS(memory_size=5).build(1, objective), objective, params, batch, steps=4)
    value = lambda params: objective.value(params, batch, CTX)
    theirs = params
    lbfgs = optax.lbfgs(memory_size=5)
    state = lbfgs.init(params)
    gradient = jax.jit(jax.value_and_grad(value))
    for _ in range(4):
        loss, grads = gradient(theirs)
        change, state = lbfgs.update(grads, state, theirs, value=loss, grad=grads, value_fn=value)
        theirs = optax.apply_updates(theirs, change)
    assert worst(ours, theirs) <= 1e-8
    assert values[-1] < values[0]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("changes", [{}, {"corrected": True}, {"sharing": "reduce"}])
def test_kfac_lowers_the_loss_much_faster_than_the_gradient(changes):
    objective, params, batch = problem(BinaryCrossEntropy(), (Penalty(l2=1e-3),), hidden=16)
    _, _, values = updates(optim.KFAC(damping=0.1, **changes).build(1, objective), objective, params, batch, steps=40)
    _, _, plain = updates(optax.with_extra_args_support(optax.sgd(0.5)), objective, params, batch, steps=120)
    assert np.all(np.diff(values) <= 1e-12)
    assert values[-1] < plain[-1]


SECOND_ORDER = {  # config: its keys' other values, each of which must change what twelve steps lead to
    optim.LevenbergMarquardt(): {"damping": 1.0, "factor": 10.0},
    optim.GaussNewton(): {"damping": 0.1, "iterations": 2, "tolerance": 0.5},
    optim.Newton(): {"damping": 0.1, "iterations": 2, "tolerance": 0.5},
    optim.NaturalGradient(): {"learning_rate": 0.1, "damping": 0.1},
    optim.AdaptiveNaturalGradient(): {"learning_rate": 0.1, "damping": 0.1, "rate": 0.5},
    optim.LBFGS(): {"memory_size": 2},
    optim.VariableRate(4.0): {"learning_rate": 0.1, "momentum": 0.5, "tolerance": 1.0, "cut": 0.5, "growth": 1.2},
    optim.KFAC(): {
        "damping": 0.1,
        "adaptation": 0.5,
        "least": 1.0,
        "decay": 0.5,
        "every": 1,
        "sharing": "reduce",
        "corrected": True,
    },
    optim.FiniteDifferences(): {"learning_rate": 0.2, "h": 0.1},
    optim.GainBackpropagation(): {"learning_rate": 0.5, "start": 2.0, "forgetting": 0.9},
    optim.Perceptron(): {"learning_rate": 0.1},
    optim.DeltaRule(): {"learning_rate": 0.2},
    optim.Adaline(): {"learning_rate": 0.2},
    optim.SPSA(): {"learning_rate": 0.02, "h": 0.5},
    optim.RandomSearch(): {"size": 0.2},
    optim.SignSearch(): {"size": 0.2},
    optim.Genetic(population=8): {"population": 9, "size": 0.2, "mutation": 0.5},
    optim.ParticleSwarm(population=8): {"population": 9, "size": 0.5, "inertia": 0.5, "pull": 1.0},
}


def test_every_second_order_optimizer_and_key_is_in_the_table():
    configs = [kind for kind in vars(optim).values() if isinstance(kind, type) and issubclass(kind, OptimizerConfig)]
    keys = {kind: {field.name for field in fields(kind)} for kind in configs if not kind.gradient_alone}
    del keys[OptimizerConfig], keys[optim.GradientFree]
    assert keys == {type(config): others.keys() for config, others in SECOND_ORDER.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("config", SECOND_ORDER, ids=lambda config: type(config).__name__)
def test_every_key_of_a_second_order_optimizer_changes_something(config):
    objective, params, batch = problem(hidden=0)
    if "sharing" in SECOND_ORDER[config]:  # positions: a Dense over time
        batch = {
            "x": jnp.stack([batch["x"]] * 2, 1) * jnp.array([1.0, 2.0])[:, None],
            "y": jnp.stack([batch["y"]] * 2, 1),
            "weight": jnp.full((7, 2), 1 / 14),
        }
        objective = replace(objective, spec=jax.ShapeDtypeStruct((7, 2, 2), jnp.float64))
    end = lambda config: ravel_pytree(updates(config.build(12, objective), objective, params, batch, 12)[0])[0]
    before = end(config)
    for key, value in SECOND_ORDER[config].items():
        assert jnp.abs(end(replace(config, **{key: value})) - before).max() > 0, key


CONFIG = Config(
    data=Encoder(8),
    model=MLP(outputs=8, hidden=(3,), activation="sigmoid"),
    loss=BinaryCrossEntropy(),
    optimizer=optim.KFAC(damping=0.1),
    run=Run(epochs=20, batch_size=None, evaluate_every=10),
)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"optimizer": optim.LevenbergMarquardt()}, "Levenberg-Marquardt needs the loss SquaredError"),
        (
            {"optimizer": optim.LevenbergMarquardt(), "loss": SquaredError(), "penalty": Penalty(l1=0.1)},
            "Levenberg-Marquardt: penalty.l1 must be 0: an L1 term is not a sum of squares",
        ),
        (
            {"optimizer": optim.NaturalGradient(), "loss": AbsoluteError()},
            "natural gradient: AbsoluteError is not a negative",
        ),
        ({"loss": AbsoluteError()}, "sampled: AbsoluteError is not a negative log-likelihood"),
        (
            {"run": Run(epochs=1, batch_size=4, micro_batches=2)},
            "KFAC takes the whole batch: run.micro_batches must be 1",
        ),
        (
            {"optimizer": SGD(), "run": Run(epochs=1, batch_size=4, micro_batches=2, noise_scale_every=1)},
            "run.noise_scale_every takes the whole batch",
        ),
        (
            {"optimizer": SGD(private=Private()), "run": Run(epochs=1, batch_size=4, noise_scale_every=1)},
            "run.noise_scale_every must be None where gradients are clipped",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_written(changes, line, tmp_path):
    with pytest.raises(jaxbp.InputError, match=f"^{re.escape(line)}"):
        train(replace(CONFIG, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_factor_that_is_too_large_is_refused():
    objective = Objective(jaxbp.Dense(9000), SquaredError(), (), jax.ShapeDtypeStruct((2, 3), jnp.float32))
    with pytest.raises(jaxbp.InputError, match=r"^K-FAC: a factor of 'b' has 9,000 rows, at most 8,192 allowed"):
        jax.eval_shape(optim.kfac(objective).init, {"w": jnp.zeros((9000, 3)), "b": jnp.zeros(9000)})


def test_kfac_without_a_spec_is_one_line():
    with pytest.raises(jaxbp.InputError, match=r"^K-FAC: the objective needs the spec of a batch's x: jax\.Shape"):
        optim.kfac(Objective(jaxbp.Dense(2), SquaredError()))


@pytest.mark.parametrize(("name", "purpose"), [("kfac", "targets"), ("private", "noise")])
def test_a_context_without_a_key_is_one_line(name, purpose):
    objective, params, batch = problem(dtype=jnp.float32)
    optimizer = optim.kfac(objective) if name == "kfac" else Private().noise()
    step = lambda params: optimizer.update(
        params, optimizer.init(params), params, value=jnp.zeros(()), batch=batch, ctx=Context()
    )
    with pytest.raises(jaxbp.InputError, match=f"^{purpose} are drawn at random: give the context a key"):
        jax.eval_shape(step, params)


@pytest.mark.slow
def test_a_second_order_run_goes_on_to_the_same_bytes(tmp_path):
    train(CONFIG, tmp_path / "whole")
    train(replace(CONFIG, run=replace(CONFIG.run, epochs=10)), tmp_path / "parts")
    train(CONFIG, tmp_path / "parts")
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    loaded = jaxbp.load(tmp_path / "parts")
    assert set(loaded.params) == {"00_flatten", "01_dense", "02_sigmoid", "03_dense"}


@pytest.mark.slow
def test_the_sine_config_fits_in_fifty_iterations(tmp_path):
    metrics = train(load(ROOT / "configs/sine_lm.py"), tmp_path / "run")
    assert metrics["step"] <= 50
    assert metrics["train_loss"] < 1e-6
    assert metrics["test_loss"] < 1e-6


# --- privacy and noise -----------------------------------------------------------------------------------------------


@functools.cache
def private(noise_multiplier=0.0, memory="recomputed", micro_batches=1):
    """(objective, params, batch with a masked row, Result of a private gradient, what adds the noise to it)."""
    objective, params, batch = problem(SoftmaxCrossEntropy())
    batch = batch | {"y": jnp.arange(7) % 2, "weight": jnp.array([1, 1, 0, 1, 1, 1, 1]) / 6}
    batch = jax.tree.map(lambda a: jnp.concatenate([a, a[:1]]), batch)  # 8 rows
    batch["weight"] = batch["weight"].at[7].set(0)
    config = SGD(private=Private(0.2, noise_multiplier, memory))
    gradient = config.gradient(objective.model, objective.loss)
    gradient = accumulated(gradient, micro_batches) if micro_batches > 1 else gradient
    return objective, params, batch, gradient(params, batch, CTX), config.private.noise()


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_a_private_gradient_is_the_mean_of_clipped_ones():
    objective, params, batch, result, _ = private()
    ones = batch | {"weight": (batch["weight"] > 0).astype(jnp.float64)}
    clipped = per_example.clipped_gradient(objective.model, objective.loss, 0.2, "sum")(params, ones)
    assert worst(result.grads, jax.tree.map(lambda g: g / 6, clipped.grads)) <= 1e-12
    assert float(clipped.norms.max()) > 0.2  # something is clipped
    assert abs(result.value - objective.value(params, batch, CTX)) <= 1e-12
    for other in (private(memory="kept"), private(micro_batches=2)):
        assert worst(other[3].grads, result.grads) <= 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_noise_is_a_multiple_of_what_one_example_can_do():
    _, params, batch, result, noise = private(noise_multiplier=3.0)
    draw = lambda key: noise.update(result.grads, (), params, batch=batch, ctx=Context(key))[0]
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000))
    for noisy, plain in zip(jax.tree.leaves(drawn), jax.tree.leaves(result.grads), strict=True):
        np.testing.assert_allclose(jnp.mean(noisy, 0), plain, atol=0.01)
        np.testing.assert_allclose(jnp.std(noisy, 0), 3.0 * 0.2 / 6, rtol=0.1)


@pytest.mark.slow
def test_private_training_goes_through_the_whole_loop(tmp_path):
    config = Config(
        Embedded("digits", scaling="min_max"),
        MLP(10, (32,), "tanh"),
        SoftmaxCrossEntropy(),
        SGD(0.5, momentum=0.9, private=Private(1.0, 1.0)),
        Run(epochs=5, batch_size=256),
    )
    metrics = train(config, tmp_path / "run")
    assert metrics["test_accuracy"] > 0.85
    coupled = jaxbp.Chain((jaxbp.Dense(3), jaxbp.BatchNorm(), jaxbp.Dense(2)))
    with pytest.raises(
        jaxbp.InputError, match=r"^01_batchnorm: per-example gradients are undefined here: 'batchnorm' mixes"
    ):
        SGD(private=Private()).gradient(coupled, SoftmaxCrossEntropy())(
            coupled.init(jax.random.key(0), jax.ShapeDtypeStruct((4, 2), jnp.float32)),
            {"x": jnp.ones((4, 2)), "y": jnp.zeros(4, jnp.int32), "weight": jnp.ones(4)},
        )


@pytest.mark.slow
def test_the_noise_meter_measures_as_often_as_it_says():
    objective, params, batch = problem(penalties=(Penalty(l2=0.5),), dtype=jnp.float32)
    masked = batch | {"weight": jnp.array([1, 1, 0, 1, 1, 0, 1], jnp.float32) / 5}
    grads = objective.gradient()(params, masked, CTX).grads
    meter = optim.noise_meter(objective, 3)
    update = jax.jit(lambda state: meter.update(grads, state, params, batch=masked, ctx=CTX))
    state = meter.init(params)
    for _ in range(7):  # measured at steps 0, 3, 6
        same, state = update(state)
    assert worst(same, grads) == 0
    rows = jax.tree.map(lambda a: a[jnp.array([0, 1, 3, 4, 6])], masked)
    plain = replace(objective, penalties=())
    norms = per_example.squared_norms(plain.model, plain.loss)(params, rows)
    noise = per_example.noise(sum(jax.tree.leaves(norms)), plain.gradient()(params, rows, CTX).grads)
    np.testing.assert_allclose(state.noise, 3 * np.array(noise), rtol=1e-4)
    assert np.all(np.array(state.cleared().noise) == 0)
    assert state.cleared().steps == 7


@pytest.mark.slow
def test_a_run_logs_its_noise_scale(tmp_path):
    config = Config(
        Embedded("iris", scaling="standard"),
        MLP(3, (8,)),
        SoftmaxCrossEntropy(),
        SGD(0.1),
        Run(epochs=2, batch_size=32, noise_scale_every=2),
    )
    train(config, tmp_path / "run")
    rarely = replace(config, run=replace(config.run, noise_scale_every=100))
    assert "noise_scale" not in train(rarely, tmp_path / "rarely")  # measured in the first epoch alone
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["noise_scale"]) for row in rows)
    assert rows[0]["noise_scale"] != rows[1]["noise_scale"]
