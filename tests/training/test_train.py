"""The step's laws, the loop's bits, and what a run leaves in its folder."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import config as configuration
from jaxbp import optim
from jaxbp.check import autodiff, worst
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.data import Dataset, Embedded
from jaxbp.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.failure import diagnose, replay
from jaxbp.training.feeds import rounds
from jaxbp.training.loop import NotFinite, train
from jaxbp.training.report import curves
from jaxbp.training.run import load
from jaxbp.training.step import Feed, State, accumulated, initial_state, make_program, make_step
from tests.support.runs import small, weights

MODEL = MLP(outputs=3, hidden=(7,), activation="tanh").build()
X, Y = jax.random.normal(jax.random.key(0), (11, 5)), jnp.arange(11) % 3


def fresh(optimizer, dtype=jnp.float32) -> State:
    state = initial_state(MODEL, optimizer, jax.ShapeDtypeStruct((11, 5), jnp.float32), 0)
    return jaxbp.cast(state, dtype)


def updated(rows, mask, loss=SoftmaxCrossEntropy()):
    """Parameters after one float64 step on these rows."""
    batch = {"x": X[rows].astype(jnp.float64), "y": Y[rows], "mask": jnp.asarray(mask, jnp.float64)}
    return compiled_step(loss)(fresh(optax.sgd(0.1), jnp.float64), batch).params


@functools.cache
def compiled_step(loss):
    return jax.jit(make_step(jaxbp.value_and_grad(MODEL, loss), optax.sgd(0.1)))


@pytest.mark.slow
def test_batch_laws_of_a_step(float64):
    rows = np.arange(5)
    plain = updated(rows, np.ones(5))
    assert worst(updated(np.tile(rows, 2), np.ones(10)), plain) <= 1e-12  # duplicated
    assert worst(updated(rows[::-1].copy(), np.ones(5)), plain) <= 1e-12  # permuted
    assert worst(updated(np.r_[rows, 7, 8], [1] * 5 + [0] * 2), plain) <= 1e-12  # masked rows are not there
    nothing = updated(rows, np.zeros(5))
    assert worst(nothing, fresh(optax.sgd(0.1), jnp.float64).params) == 0  # all masked: no update, and no NaN


def test_full_batch_step_is_gradient_descent(float64):
    state = fresh(optax.sgd(0.1), jnp.float64)
    batch = {"x": X.astype(jnp.float64), "y": Y, "weight": jnp.full(11, 1 / 11)}
    grads = jax.jit(autodiff(MODEL, SoftmaxCrossEntropy()))(state.params, batch).grads
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    assert worst(updated(np.arange(11), np.ones(11)), expected) <= 1e-12


@pytest.mark.parametrize("bad", [np.nan, *(pytest.param(bad, marks=pytest.mark.slow) for bad in (np.inf, -np.inf))])
def test_a_nonfinite_gradient_stops_before_the_update(bad):
    """The fourth of ten steps is planted: three updates are made, and not a bit of the fourth."""
    optimizer = optax.adam(0.1)
    step = make_step(jaxbp.value_and_grad(MODEL, SoftmaxCrossEntropy()), optimizer)
    program = make_program(step)
    order = jnp.arange(10, dtype=jnp.int32)[:, None]
    feed = lambda x: Feed(x, Y, order, jnp.ones((10, 1)))
    run = lambda x, count: program(fresh(optimizer), feed(x), jnp.int32(0), jnp.int32(count))[0]
    stopped, three = run(X.at[3, 0].set(bad), 10), run(X, 3)
    assert not stopped.finite
    assert stopped.step == 3
    assert three.finite
    for a, b in zip(
        jax.tree.leaves((stopped.params, stopped.optimizer, stopped.loss_sum)),
        jax.tree.leaves((three.params, three.optimizer, three.loss_sum)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_any_number_of_steps_is_one_program():
    optimizer = optax.sgd(0.1)
    program = make_program(make_step(jaxbp.value_and_grad(MODEL, SoftmaxCrossEntropy()), optimizer))
    feed = Feed(X, Y, jnp.zeros((10, 2), jnp.int32), jnp.ones((10, 2)))
    state = fresh(optimizer)
    for first, count in ((0, 1), (1, 7), (8, 2)):
        state, _ = program(state, feed, jnp.int32(first), jnp.int32(count))
    assert program._cache_size() == 1
    assert state.step == 10


@pytest.mark.slow
def test_steps_per_call_does_not_change_a_byte(tmp_path):
    for steps in (1, 7, 100):
        train(small(steps_per_call=steps), tmp_path / str(steps))
    assert len({(tmp_path / str(steps) / "metrics.jsonl").read_bytes() for steps in (1, 7, 100)}) == 1
    assert len({weights(tmp_path / str(steps)) for steps in (1, 7, 100)}) == 1


def test_a_run_leaves_its_folder_complete(tmp_path, capsys):
    config = small()
    last = train(config, tmp_path / "run")
    folder, out = tmp_path / "run", capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "run.json",
        "config.json",
        "preparation.json",
        "provenance.json",
        "metrics.jsonl",
        "timing.jsonl",
        "checkpoints",
        "curves.png",
        "report.html",
    }
    assert out.splitlines()[0].startswith("cpu (")
    assert "threads, float32, matrix products in highest precision, 131 parameters" in out.splitlines()[0]
    rows = curves.read_metrics(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1] == last
    assert set(last) == {
        "epoch",
        "step",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
    }  # no wall-clock in here
    assert configuration.from_json(json.loads((folder / "config.json").read_text())) == config
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "provenance.json").read_text())[0]["versions"]["jax"] == jax.__version__
    model, params, state, stored, _, classes, *_ = load(folder)
    assert (stored, classes) == (config, ("setosa", "versicolor", "virginica"))
    metrics = make_evaluation(model, config.loss, True)(params, state, config.data.load().test)
    assert metrics == {"loss": last["test_loss"], "accuracy": last["test_accuracy"]}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, None], ids=["online", "mini-batch", "full batch"])
def test_batch_sizes(batch_size, tmp_path):
    last = train(small(epochs=1, batch_size=batch_size), tmp_path)
    assert last["step"] == {1: 90, 7: 13, None: 1}[batch_size]


@pytest.mark.slow
def test_seeds_decide_everything(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small(seed=seed), tmp_path / name)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_evaluation_counts_every_example_once(monkeypatch):
    """In chunks of four, the last of them ragged: the mean over eleven examples, by plain numpy."""
    monkeypatch.setattr("jaxbp.training.evaluate.CHUNK", 4)
    params = fresh(optax.sgd(0.1)).params
    metrics = make_evaluation(MODEL, SoftmaxCrossEntropy(), True)(params, None, Dataset(np.asarray(X), np.asarray(Y)))
    y = np.asarray(MODEL.forward(params, X, jaxbp.Context(train=False))[0])
    log_p = y - np.log(np.exp(y).sum(1, keepdims=True))
    assert metrics["loss"] == pytest.approx(-log_p[np.arange(11), Y].mean(), rel=1e-6)
    assert metrics["accuracy"] == pytest.approx((y.argmax(1) == Y).mean())


@pytest.mark.parametrize(
    ("loss", "target"),
    [(BinaryCrossEntropy(), np.array([0, 1, 1], np.int32)), (SquaredError(), np.array([[0.0], [1], [1]], np.float32))],
)
def test_one_output_is_a_yes_or_no(loss, target):
    """Logits are cut at 0, outputs of squared error at 0.5."""
    outputs = np.array([[0.3], [0.7], [-1.0]], np.float32)
    metrics = make_evaluation(jaxbp.Identity(), loss, True)({}, None, Dataset(outputs, target))
    assert metrics["accuracy"] == pytest.approx(1 / 3 if isinstance(loss, BinaryCrossEntropy) else 2 / 3)


def test_a_schedule_rises_and_falls_as_its_fractions_say():
    cosine = optim.Cosine(warmup=0.1, final=0.5).build(2.0, 100)
    assert [float(cosine(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 1, 2, 1.5, 1])
    assert float(optim.Constant().build(0.3, 10)(9)) == pytest.approx(0.3)


def test_momentum_is_a_sum_of_past_gradients():
    """Two gradients of 1 by hand: 0.1, then 0.1 (1 + 0.9)."""
    optimizer = optim.SGD(0.1, momentum=0.9).build(2)
    state = optimizer.init(jnp.zeros(()))
    for expected in (-0.1, -0.19):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        assert float(update) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": {"batch_size": 91}}, "run.batch_size is 91, but the training part has 90 examples"),
        ({"model": {"outputs": 4}}, r"the model has 4 outputs, but the data has 3 classes: set model.outputs=3"),
        ({"data": {"one_hot": True}, "loss": BinaryCrossEntropy(), "model": {"outputs": 1}}, "the model has 1 outputs"),
        (
            {"model": {"outputs": 1}, "loss": BinaryCrossEntropy()},
            "the model has 1 outputs, but the data has 3 classes",
        ),
        ({"loss": SquaredError()}, r"outputs \[16, 3\] need float targets of the same shape, got integer \[16\]"),
        ({"optimizer": {"groups": (optim.Group(".*/b"),)}}, r"groups: no pattern matches '01_dense/w'"),
        ({"penalty": {"l2": 0.1, "paths": "dense/w"}}, r"'dense/w' matches no parameter \(there are: 01_dense/b"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(change, message, tmp_path):
    config = small()
    for name, value in change.items():
        new = replace(getattr(config, name), **value) if isinstance(value, dict) else value
        config = replace(config, **{name: new})
    with pytest.raises(jaxbp.InputError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_load_refuses_what_is_no_finished_run(tmp_path):
    with pytest.raises(jaxbp.InputError, match="is not a run folder"):
        load(tmp_path)
    train(small(epochs=1), tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(jaxbp.InputError, match="no valid checkpoint"):
        load(tmp_path)


@pytest.mark.parametrize("parts", [3, *(pytest.param(parts, marks=pytest.mark.slow) for parts in (2, 6))])
def test_accumulation_is_the_whole_batch(float64, parts):
    """Six rows of which the last two are masked, in parts of three, two and one."""
    optimizer = optax.sgd(0.1)
    batch = {"x": X[:6].astype(jnp.float64), "y": Y[:6], "mask": jnp.array([1.0, 1, 1, 1, 0, 0])}
    gradient = jaxbp.value_and_grad(MODEL, SoftmaxCrossEntropy())
    whole, parted = (
        jax.jit(make_step(g, optimizer))(fresh(optimizer, jnp.float64), batch)
        for g in (gradient, accumulated(gradient, parts))
    )
    assert worst(parted.params, whole.params) <= 1e-12
    assert worst(parted.loss_sum, whole.loss_sum) <= 1e-12


@pytest.mark.slow
def test_accumulation_counts_a_penalty_once(tmp_path):
    """The whole loop: a batch in parts gives the losses of the batch as a whole, dropout being off."""
    config = replace(small(epochs=1, batch_size=30), penalty=jaxbp.Penalty(l2=0.5))
    parts = replace(config, run=replace(config.run, micro_batches=3))
    whole, parted = (train(c, tmp_path / str(i)) for i, c in enumerate((config, parts)))
    assert parted == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_early_stopping_returns_the_best_weights(tmp_path):
    """A learning rate that overshoots: the run stops before its last epoch, with the weights of its best evaluation."""
    config = small(epochs=200, patience=3, batch_size=15)
    config = replace(
        config, data=replace(config.data, validation_fraction=0.3), optimizer=optim.SGD(learning_rate=0.5, momentum=0.9)
    )
    best = train(config, tmp_path)
    rows = curves.read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) < 200
    assert rows[-4] == best
    assert min(row["validation_loss"] for row in rows) == best["validation_loss"]
    model, params, state, *_ = load(tmp_path)
    metrics = make_evaluation(model, config.loss, True)(params, state, config.data.load().validation)
    assert metrics["loss"] == best["validation_loss"]
    assert train(config, tmp_path) == best  # it knows that it has finished
    with pytest.raises(jaxbp.InputError, match=r"run\.patience needs a validation part"):
        train(small(patience=3), tmp_path.with_name("other"))


@pytest.mark.slow
def test_a_nonfinite_run_names_the_step_and_the_layer_and_can_be_replayed(tmp_path):
    """A learning rate of 1e30 overflows in the second update: the first one is kept, and the bundle shows the same."""
    config = replace(small(), optimizer=optim.SGD(learning_rate=1e30))
    config = replace(config, model=replace(config.model, activation="relu"))
    for _ in range(2):  # the same command fails in the same way
        with pytest.raises(NotFinite, match=r"step 1: not finite first in the output of layer 03_dense"):
            train(config, tmp_path)
    assert replay(config, tmp_path) == (1, "the output of layer 03_dense")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e300, 3e38], ids=["the rate overflows", "the sum of the weights does"])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_weights_that_are_not_finite_are_not_kept(rate, tmp_path):
    """The first update of XOR, after which the run would go on with NaN in its metrics and its checkpoint."""
    run = configuration.Run(epochs=10, batch_size=None, checkpoint_seconds=0)
    overflowing = replace(EXPERIMENTS["xor"], optimizer=optim.Adam(learning_rate=rate), run=run)
    line = (
        "^step 0: after its update .* is not finite; nothing of it is kept: lower optimizer.learning_rate, .* so far$"
    )
    with pytest.raises(NotFinite, match=line):
        train(overflowing, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("spoil", "first"),
    [
        (lambda batch, params: batch["x"].at[0, 0].set(jnp.nan), "the batch, x"),
        (lambda batch, params: params["00_dense"]["w"].at[0, 0].set(jnp.inf), "the parameters, 00_dense/w"),
    ],
)
def test_diagnosis_begins_at_the_front(spoil, first):
    model = jaxbp.Chain((jaxbp.Dense(7), jaxbp.Tanh(), jaxbp.Dense(3)))
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(X.shape, X.dtype))
    batch = {"x": X, "y": Y, "weight": jnp.full(11, 1 / 11)}
    if "batch" in first:
        batch["x"] = spoil(batch, params)
    else:
        params["00_dense"]["w"] = spoil(batch, params)
    assert diagnose(model, SoftmaxCrossEntropy(), params, batch, jaxbp.Context()) == first


@pytest.mark.slow
def test_diagnosis_names_a_backward_that_is_wrong_alone():
    class Bad(jaxbp.Tanh):
        def backward(self, params, y, dy):
            return dy / 0.0, {}

    model = jaxbp.Chain((jaxbp.Dense(7), Bad(), jaxbp.Dense(3)))
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(X.shape, X.dtype))
    batch = {"x": X, "y": Y, "weight": jnp.full(11, 1 / 11)}
    assert diagnose(model, SoftmaxCrossEntropy(), params, batch, jaxbp.Context()) == "the delta of layer 00_dense"


@pytest.mark.slow
def test_augmentation_is_a_function_of_seed_and_step(tmp_path):
    """Noise on the inputs: another run than without, the same when made again, and evaluation does not see it."""

    class Noisy(Embedded):
        def augment(self, key, x):
            return x + jax.random.normal(key, x.shape)

    config = small(epochs=2)
    noisy = replace(config, data=Noisy("iris", scaling="standard", test_fraction=0.4))
    rows = [train(c, tmp_path / name) for name, c in (("plain", config), ("a", noisy), ("b", noisy))]
    assert rows[1] == rows[2]
    assert rows[0]["train_loss"] != rows[1]["train_loss"]
    seen = {}
    optimizer = optax.sgd(0.0)
    watch = lambda key, x: x + jax.random.uniform(key, ())
    step = jax.jit(make_step(jaxbp.value_and_grad(MODEL, SoftmaxCrossEntropy()), optimizer, watch))
    state = fresh(optimizer)
    for i in range(3):
        before = state.loss_sum
        state = step(state, {"x": X, "y": Y, "mask": jnp.ones(11)})
        seen[i] = float(state.loss_sum - before)
    assert len(set(seen.values())) == 3  # each step its own


@pytest.mark.slow
def test_penalty_and_dropout_reach_the_update(tmp_path):
    plain = train(small(epochs=1), tmp_path / "a")
    config = small(epochs=1)
    for i, other in enumerate(
        (replace(config, penalty=jaxbp.Penalty(l2=0.1)), replace(config, model=replace(config.model, dropout=0.5)))
    ):
        assert train(other, tmp_path / str(i))["train_loss"] != plain["train_loss"]


def test_rounds_cover_every_epoch():
    assert list(rounds(7, 3)) == [(0, 3), (3, 6), (6, 7)]
