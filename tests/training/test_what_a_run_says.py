"""What a run tells a person: figures that say something, why it stopped, and what does not fit together."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import jaxbp
from jaxbp import optim
from jaxbp.config import Run
from jaxbp.data import Embedded, Function
from jaxbp.losses import BinaryCrossEntropy, MulticlassHinge, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.training.ending import last_line
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.fit import check_fit, check_outputs
from jaxbp.training.loop import train
from jaxbp.training.report.curves import as_text, line, read_metrics
from jaxbp.training.report.scores import measure
from jaxbp.training.run import load
from jaxbp.training.signals import Interrupted
from tests.support.runs import small

BLOBS = {"data": Embedded("breast_cancer", scaling="standard")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6.1e-9, "6.1e-09"),
        (6.12345e-9, "6.123e-09"),
        (9.9996e-5, "0.0001"),
        (1e-4, "0.0001"),
        (-3e-7, "-3e-07"),
        (0.0, "0.0000"),
        (0.98046, "0.9805"),
        (12.5, "12.5000"),
        (np.float32(0.25), "0.2500"),
        (float("nan"), "nan"),
    ],
)
def test_small_figures_keep_their_digits(value, text):
    assert as_text(value) == text


def test_lines_and_tables_show_them():
    row = {"epoch": 50, "step": 50, "train_loss": 6.1e-9, "test_loss": 1.0456e-8, "delta_norms": {}}
    assert line(row, 50, 10.0) == "epoch 50/50  train loss 6.1e-09  test loss 1.046e-08  10 steps/s"
    y = np.array([[1.0], [2.0], [3.0]])
    assert str(measure(y + 1e-6, y, SquaredError(), None)).startswith("RMSE 1e-06  ")
    wrong = measure(np.eye(2)[[0, 0]] * 1000, np.array([0, 0]), SoftmaxCrossEntropy(), ("a", "b"))
    assert str(wrong).endswith("calibration error 0.0000  Brier score 0.0000")


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), SoftmaxCrossEntropy(0.1), MulticlassHinge()])
def test_one_output_is_refused_where_labels_number_the_outputs(loss, tmp_path):
    config = replace(small(), **BLOBS, model=MLP(outputs=1), loss=loss)
    with pytest.raises(jaxbp.InputError, match=f"{type(loss).__name__} needs an output for each of the 2") as refusal:
        train(config, tmp_path / "run")
    assert "set model.outputs=2" in str(refusal.value)
    assert "BinaryCrossEntropy()" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_both_ways_out_fit():
    for model, loss in ((MLP(outputs=2), SoftmaxCrossEntropy()), (MLP(outputs=1), BinaryCrossEntropy())):
        config = replace(small(), **BLOBS, model=model, loss=loss)
        check_fit(config, model.build(), config.data.load())
    check_outputs(SquaredError(), 1, 2)  # the loss itself refuses labels that are no numbers
    check_outputs(SquaredError(), 5, 0)
    with pytest.raises(jaxbp.InputError, match="the model has 3 outputs, but the data has 2 classes"):
        check_outputs(SoftmaxCrossEntropy(), 3, 2)
    with pytest.raises(jaxbp.InputError, match="all examples are of one class"):
        check_outputs(SoftmaxCrossEntropy(), 1, 1)


def overshooting(**run):
    """A learning rate that overshoots, with a validation part."""
    config = small(**({"epochs": 200, "patience": 3, "batch_size": 15} | run))
    optimizer = optim.SGD(learning_rate=0.5, momentum=0.9)
    return replace(config, data=replace(config.data, validation_fraction=0.3), optimizer=optimizer)


@pytest.mark.slow
def test_a_run_that_stops_early_says_so_and_whose_weights_it_keeps(tmp_path, capsys):
    best = train(overshooting(), tmp_path)
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]["epoch"]
    assert last < 200
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith(f"stopped early after epoch {last} of 200, 3 evaluations without a better loss; kept the ")
    loss = as_text(best["validation_loss"])
    assert out.endswith(f"kept the weights of epoch {best['epoch']}, whose validation loss of {loss} is the lowest")
    train(overshooting(), tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == out  # the same command again
    run = load(tmp_path)
    evaluate = make_evaluation(run.model, run.config.loss, True)
    metrics = evaluate(run.params, run.state, run.config.data.load().validation)
    assert metrics["loss"] == best["validation_loss"]


@pytest.mark.slow
def test_a_run_that_reaches_its_end_says_whose_weights_it_keeps(tmp_path, capsys):
    best = train(overshooting(epochs=4, patience=100), tmp_path)
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith(f"kept the weights of epoch {best['epoch']}, whose validation loss")


@pytest.mark.slow
def test_a_run_stops_at_a_training_loss_also_when_it_is_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxbp.training.loop.draw", lambda session, rows: None)  # no report
    config = small(epochs=200, stop_at_loss=0.5)
    train(replace(config, run=replace(config.run, epochs=1)), tmp_path)
    assert "stopped" not in capsys.readouterr().out
    last = train(config, tmp_path)
    losses = [row["train_loss"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] <= 0.5 < min(losses[:-1])
    line = capsys.readouterr().out.splitlines()[-1]
    loss = as_text(losses[-1])
    end = f"epoch {last['epoch']} of 200, a training loss of {loss}, at most run.stop_at_loss=0.5"
    assert line == f"stopped early after {end}"
    assert last["epoch"] == len(losses) < 200
    assert train(config, tmp_path) == last  # it knows that it has finished
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_train_accuracy_is_that_of_evenly_spaced_training_examples(tmp_path):
    """The training part of iris is sorted by class: its first rows would be of one class."""
    config = small(epochs=1)
    row = train(config, tmp_path)
    splits = config.data.load()
    run = load(tmp_path)
    y = np.asarray(run.model.forward(run.params, splits.train.x, jaxbp.Context(train=False))[0])
    hits = y.argmax(1) == splits.train.y
    rows = [i * 90 // 60 for i in range(60)]
    assert row["train_accuracy"] == pytest.approx(hits[rows].mean())
    assert {int(label) for label in splits.train.y[rows]} == {0, 1, 2}
    assert list(row) == ["epoch", "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]


def test_regression_has_no_accuracy(tmp_path):
    config = replace(small(epochs=1), data=Function("sine"), model=MLP(outputs=1), loss=SquaredError())
    assert list(train(config, tmp_path)) == ["epoch", "step", "train_loss", "test_loss"]


@pytest.mark.slow
def test_an_interrupted_run_has_its_curves(tmp_path, monkeypatch):
    points = []

    def note(point):
        points.append(point)
        if points.count("evaluated") == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("jaxbp.training.loop.reached", note)
    with pytest.raises(Interrupted):
        train(small(epochs=50), tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) < 50


@pytest.mark.parametrize(
    ("epochs", "line"),
    [(4, ""), (5, "stopped early after epoch 4 of 5, a training loss of 0.5000, at most run.stop_at_loss=1000.0")],
)
def test_a_run_stops_early_only_where_epochs_are_left(epochs, line):
    run = Run(epochs=epochs, stop_at_loss=1000.0)
    session = SimpleNamespace(config=SimpleNamespace(run=run), facts={"finished": True})
    row = {"epoch": 4, "train_loss": 0.5}
    assert last_line(session, row, row) == line
