"""The step's laws, the loop's bits, and what a run leaves in its folder."""
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import config as configuration
from jaxbp.check import autodiff, worst
from jaxbp.data import Dataset
from jaxbp.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.train import optimizers, report
from jaxbp.train.evaluate import make_evaluation
from jaxbp.train.loop import restore, rounds, train
from jaxbp.train.step import State, initial_state, make_program, make_step

CONFIGS = Path(__file__).parent.parent / "configs"
MODEL = MLP(outputs=3, hidden=(7,), activation="tanh").build()
X, Y = jax.random.normal(jax.random.key(0), (11, 5)), jnp.arange(11) % 3


def small(**run) -> configuration.Config:
    config = configuration.load(CONFIGS / "iris.py")
    return replace(config, run=replace(config.run, **({"epochs": 3, "evaluate_every": 1} | run)))


def fresh(optimizer, dtype=jnp.float32) -> State:
    state = initial_state(MODEL, optimizer, jax.ShapeDtypeStruct((11, 5), jnp.float32), 0)
    return jaxbp.cast(state, dtype)


def updated(rows, mask, loss=SoftmaxCrossEntropy()):
    """Parameters after one float64 step on these rows."""
    optimizer = optax.sgd(0.1)
    batch = {"x": X[rows].astype(jnp.float64), "y": Y[rows], "mask": jnp.asarray(mask, jnp.float64)}
    return jax.jit(make_step(jaxbp.value_and_grad(MODEL, loss), optimizer))(fresh(optimizer, jnp.float64), batch).params


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


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
    grads = autodiff(MODEL, SoftmaxCrossEntropy())(state.params, batch).grads
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    assert worst(updated(np.arange(11), np.ones(11)), expected) <= 1e-12


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nonfinite_gradient_stops_before_the_update(bad):
    """The fourth of ten steps is planted: three updates are made, and not a bit of the fourth."""
    optimizer = optax.adam(0.1)
    step = make_step(jaxbp.value_and_grad(MODEL, SoftmaxCrossEntropy()), optimizer)
    program = make_program(step)
    order = jnp.arange(10, dtype=jnp.int32)[:, None]
    run = lambda x, count: program(fresh(optimizer), x, Y, order, jnp.ones((10, 1)), jnp.int32(0), jnp.int32(count))
    stopped, three = run(X.at[3, 0].set(bad), 10), run(X, 3)
    assert not stopped.finite
    assert stopped.step == 3
    assert three.finite
    for a, b in zip(jax.tree.leaves((stopped.params, stopped.optimizer, stopped.loss_sum)),
                    jax.tree.leaves((three.params, three.optimizer, three.loss_sum)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_any_number_of_steps_is_one_program():
    optimizer = optax.sgd(0.1)
    program = make_program(make_step(jaxbp.value_and_grad(MODEL, SoftmaxCrossEntropy()), optimizer))
    order, mask = jnp.zeros((10, 2), jnp.int32), jnp.ones((10, 2))
    state = fresh(optimizer)
    for first, count in ((0, 1), (1, 7), (8, 2)):
        state = program(state, X, Y, order, mask, jnp.int32(first), jnp.int32(count))
    assert program._cache_size() == 1
    assert state.step == 10


def test_steps_per_call_does_not_change_a_byte(tmp_path):
    for steps in (1, 7, 100):
        train(small(steps_per_call=steps), tmp_path / str(steps))
    for name in ("metrics.jsonl", "parameters.npz"):
        contents = {(tmp_path / str(steps) / name).read_bytes() for steps in (1, 7, 100)}
        assert len(contents) == 1, name


def test_a_run_leaves_its_folder_complete(tmp_path, capsys):
    config = small()
    last = train(config, tmp_path / "run")
    folder, out = tmp_path / "run", capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "provenance.json", "metrics.jsonl", "timing.jsonl", "parameters.npz", "curves.png"}
    assert out.splitlines()[0].startswith("cpu (")
    assert "threads, float32, matrix products in highest precision, 131 parameters" in out.splitlines()[0]
    rows = report.read_metrics(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1] == last
    assert set(last) == {"epoch", "step", "train_loss", "test_loss", "test_accuracy"}  # no wall-clock in here
    assert configuration.from_json(json.loads((folder / "config.json").read_text())) == config
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "provenance.json").read_text())["versions"]["jax"] == jax.__version__
    splits = config.data.load()
    model, params, state = restore(folder, config, splits)
    found = make_evaluation(model, config.loss, True)(params, state, splits.test)
    assert found == {"loss": last["test_loss"], "accuracy": last["test_accuracy"]}


@pytest.mark.parametrize("batch_size", [1, 7, None], ids=["online", "mini-batch", "full batch"])
def test_batch_sizes(batch_size, tmp_path):
    last = train(small(epochs=1, batch_size=batch_size), tmp_path)
    assert last["step"] == {1: 90, 7: 13, None: 1}[batch_size]


def test_seeds_decide_everything(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small(seed=seed), tmp_path / name)
    a, b, c = ((tmp_path / name / "parameters.npz").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_evaluation_counts_every_example_once(monkeypatch):
    """In chunks of four, the last of them ragged: the mean over eleven examples, by plain numpy."""
    monkeypatch.setattr("jaxbp.train.evaluate.CHUNK", 4)
    params = fresh(optax.sgd(0.1)).params
    found = make_evaluation(MODEL, SoftmaxCrossEntropy(), True)(params, None, Dataset(np.asarray(X), np.asarray(Y)))
    y = np.asarray(MODEL.forward(params, X, jaxbp.Context(train=False))[0])
    log_p = y - np.log(np.exp(y).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_p[np.arange(11), Y].mean(), rel=1e-6)
    assert found["accuracy"] == pytest.approx((y.argmax(1) == Y).mean())


@pytest.mark.parametrize(("loss", "target"), [(BinaryCrossEntropy(), np.array([0, 1, 1], np.int32)),
                                             (SquaredError(), np.array([[0.0], [1], [1]], np.float32))])
def test_one_output_is_a_yes_or_no(loss, target):
    """Logits are cut at 0, outputs of squared error at 0.5."""
    outputs = np.array([[0.3], [0.7], [-1.0]], np.float32)
    found = make_evaluation(jaxbp.Identity(), loss, True)({}, None, Dataset(outputs, target))
    assert found["accuracy"] == pytest.approx(1 / 3 if isinstance(loss, BinaryCrossEntropy) else 2 / 3)


def test_schedules_and_optimizers(float64):
    cosine = optimizers.Cosine(warmup=0.1, final=0.5).build(2.0, 100)
    assert [float(cosine(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 1, 2, 1.5, 1])
    assert float(optimizers.Constant().build(0.3, 10)(9)) == pytest.approx(0.3)
    params, grads = {"w": jnp.ones(3)}, {"w": jnp.array([1.0, -2.0, 3.0])}
    twice = {}
    kinds = {"sgd": optimizers.SGD(0.1), "momentum": optimizers.SGD(0.1, momentum=0.9),
             "nesterov": optimizers.SGD(0.1, momentum=0.9, nesterov=True), "adam": optimizers.Adam(0.1),
             "adamw": optimizers.AdamW(0.1, weight_decay=0.5)}
    for name, kind in kinds.items():
        optimizer, p = kind.build(10), params
        state = optimizer.init(p)
        for _ in range(2):
            updates, state = optimizer.update(grads, state, p)
            p = optax.apply_updates(p, updates)
        twice[name] = float(p["w"][0])
    # by hand, gradient 1: 0.1 + 0.1; 0.1 + 0.19; (1 + 0.9) 0.1 + (1.9 * 0.9 + 1) 0.1; sign steps; 0.95 w before each
    want = {"sgd": 0.8, "momentum": 0.71, "nesterov": 0.539, "adam": 0.8, "adamw": 0.7075}
    assert twice == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(("change", "message"), [
    ({"run": {"batch_size": 91}}, "run.batch_size is 91, but the training part has 90 examples"),
    ({"model": {"outputs": 4}}, r"the model has 4 outputs, but the data has 3 classes: set model.outputs=3"),
    ({"data": {"one_hot": True}, "loss": SquaredError(), "model": {"outputs": 1}}, "need float targets"),
    ({"loss": SquaredError()}, r"outputs \[16, 3\] need float targets of the same shape, got integer \[16\]"),
    ({"penalty": {"l2": 0.1, "paths": "dense/w"}}, r"'dense/w' matches no parameter \(there are: 01_dense/b"),
])
def test_what_does_not_fit_is_refused_and_nothing_is_written(change, message, tmp_path):
    config = small()
    for name, value in change.items():
        new = replace(getattr(config, name), **value) if isinstance(value, dict) else value
        config = replace(config, **{name: new})
    with pytest.raises(jaxbp.InputError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_restore_refuses_what_does_not_fit(tmp_path):
    config = small(epochs=1)
    splits = config.data.load()
    with pytest.raises(jaxbp.InputError, match="the run has not finished"):
        restore(tmp_path, config, splits)
    train(config, tmp_path)
    other = replace(config, model=replace(config.model, hidden=(5,)))
    with pytest.raises(jaxbp.InputError, match=r"has the shape \[16\] for 'params/01_dense/b', .* needs \[5\]"):
        restore(tmp_path, other, splits)


def test_penalty_and_dropout_reach_the_update(tmp_path):
    plain = train(small(epochs=1), tmp_path / "a")
    config = small(epochs=1)
    for i, other in enumerate((replace(config, penalty=jaxbp.Penalty(l2=0.1)),
                               replace(config, model=replace(config.model, dropout=0.5)))):
        assert train(other, tmp_path / str(i))["train_loss"] != plain["train_loss"]


def test_rounds_cover_every_epoch():
    assert list(rounds(7, 3)) == [(0, 3), (3, 6), (6, 7)]
