"""Scores against hand-computed examples and scikit-learn, and what evaluate.py leaves of them."""

import json
from dataclasses import asdict

import jax
import numpy as np
import pytest
from sklearn import metrics

import jaxbp
from jaxbp.commands.__main__ import main
from jaxbp.config import Config, Run
from jaxbp.data import Csv
from jaxbp.losses import BinaryCrossEntropy, MulticlassHinge, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.optim import SGD
from jaxbp.training import evaluate
from jaxbp.training.report.scores import calibrate, draw, measure

THREE = ("a", "b", "c")


def test_three_classes_by_hand():
    """Two of a, one of b taken for a, one of c: precision of a is 2/3, recall of b is 0; b is never predicted."""
    scores = measure(10 * np.eye(3)[[0, 0, 0, 2]], np.array([0, 0, 1, 2]), MulticlassHinge(), THREE)
    assert scores.confusion == ((2, 0, 0), (1, 0, 0), (0, 0, 1))
    assert (scores.accuracy, scores.support, scores.calibration) == (0.75, (2, 1, 1), None)
    assert scores.precision == pytest.approx((2 / 3, 0, 1))
    assert scores.recall == pytest.approx((1, 0, 1))
    assert scores.f1 == pytest.approx((0.8, 0, 1))
    lines = scores.table().splitlines()
    assert lines[0].split() == ["true", "\\", "predicted", "a", "b", "c", "precision", "recall", "F1", "examples"]
    assert lines[1].split() == ["a", "2", "0", "0", "0.6667", "1.0000", "0.8000", "2"]


def test_a_name_of_white_space_is_a_line_that_can_be_read():
    scores = measure(np.eye(3), np.arange(3), MulticlassHinge(), ("\t", "\n", " x"))
    assert [line.split("  ")[0] for line in scores.table().splitlines()[1:]] == ["'\\t'", "'\\n'", " x"]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0, 0.2775),
        (10, 10, 0.7225, 1),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),  # z^2 / (n + z^2), ...
        (81, 263, 0.2553, 0.3662),
    ],
)  # Newcombe 1998, Statistics in Medicine 17, table I
def test_wilson(right, total, low, high):
    y = np.where(np.arange(total) < right, 1.0, 0.0)[:, None]
    scores = measure(y, np.ones((total, 1)), SquaredError(), ("no", "yes"))
    assert scores.accuracy == right / total
    assert scores.interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("kind", ["labels", "one-hot"])
def test_scores_agree_with_sklearn(kind):
    random = np.random.default_rng(0)
    y, labels = random.normal(size=(200, 3)).astype(np.float32), random.integers(0, 3, 200)
    target = labels if kind == "labels" else np.eye(3, dtype=np.float32)[labels]
    scores = measure(y, target, SoftmaxCrossEntropy(), THREE)
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    assert scores.accuracy == metrics.accuracy_score(labels, p.argmax(axis=1))
    report = metrics.classification_report(labels, p.argmax(axis=1), target_names=THREE, output_dict=True)
    for name, *figures in zip(THREE, scores.precision, scores.recall, scores.f1, scores.support, strict=True):
        assert figures == list(report[name].values())
    assert scores.calibration.brier == pytest.approx(
        np.mean([metrics.brier_score_loss(labels == c, p[:, c]) for c in range(3)]) * 3, rel=1e-6
    )


@pytest.mark.parametrize("target", [np.array([1, 0, 1, 1]), np.array([[1.0], [0], [1], [1]])])
def test_one_sigmoid_output(target):
    """Logits of probability 0.8, 0.4, 0.3 and 0.95 for yes: the third is wrong."""
    p = np.array([[0.8], [0.4], [0.3], [0.95]])
    scores = measure(np.log(p / (1 - p)), target, BinaryCrossEntropy(), ("no", "yes"))
    assert scores.confusion == ((1, 0), (1, 2))
    assert scores.calibration.brier == pytest.approx((0.2**2 + 0.4**2 + 0.7**2 + 0.05**2) / 4)
    assert [b[2] for b in scores.calibration.bins] == [1, 1, 1, 1]  # confidence 0.6, 0.7 (wrong), 0.8 and 0.95
    assert scores.calibration.error == pytest.approx((0.4 + 0.7 + 0.2 + 0.05) / 4)


def test_which_outputs_are_probabilities():
    y, labels = np.zeros((2, 3)), np.array([0, 1])
    assert measure(y, labels, SoftmaxCrossEntropy(), THREE).calibration
    assert measure(y, np.eye(3)[labels], BinaryCrossEntropy(), THREE).calibration is None  # three yes-or-nos
    assert measure(y, np.eye(3)[labels], SquaredError(), THREE).calibration is None


def test_calibration_error_is_small_where_probabilities_are_true():
    """Classes drawn with the very probabilities; then the same probabilities sharpened, which no longer are true."""
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), 50_000)
    true = (random.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    calibration = calibrate(p, true)
    assert calibration.error < 0.01
    assert sum(count for *_, count in calibration.bins) == len(p)
    assert calibrate(p**3 / (p**3).sum(axis=1, keepdims=True), true).error > 0.1


def test_full_confidence_is_in_the_last_bin():
    p = np.array([[1.0, 0], [0.95, 0.05], [0, 1], [0, 1]])
    assert calibrate(p, np.array([0, 0, 1, 0])).bins == ((pytest.approx(0.9875), 0.75, 4),)


def test_regression_by_hand():
    scores = measure(np.array([[1.0], [2], [6]]), np.array([[1.0], [3], [5]]), SquaredError(), None)
    assert scores.rmse == pytest.approx((2 / 3) ** 0.5)
    assert scores.r2 == pytest.approx(1 - 2 / 8)
    assert json.loads(json.dumps(asdict(scores))) == asdict(scores)


@pytest.mark.parametrize("jitter", [0.0, 1e-9])
def test_a_constant_target_does_not_blow_up_the_explained_share(jitter):
    target = np.array([[1.0, 5], [3, 5], [5, 5 + jitter]])
    scores = measure(np.array([[1.0, 4], [2, 5], [6, 5]]), target, SquaredError(), None)
    assert scores.r2 == pytest.approx(1 - (2 + 1) / 8)


@pytest.mark.parametrize(
    ("classes", "loss", "files"),
    [(3, SoftmaxCrossEntropy(), {"confusion.png", "calibration.png"}), (36, MulticlassHinge(), {"confusion.png"})],
)
def test_pictures_and_json(tmp_path, classes, loss, files):
    """Many classes too: then the table has no matrix."""
    names = tuple(f"class {i}" for i in range(classes))
    scores = measure(np.eye(classes), np.arange(classes), loss, names)
    draw(scores, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == files
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert ("class 1  class 2" in scores.table()) == (classes == 3)
    assert json.loads(json.dumps(asdict(scores)))["confusion"] == np.eye(classes).tolist()


@pytest.mark.parametrize("rows", [1, 4, 11])
def test_predictions_come_in_order_from_any_number_of_chunks(monkeypatch, rows):
    monkeypatch.setattr(evaluate, "CHUNK", 4)
    model, x = jaxbp.Chain((jaxbp.Dense(3), jaxbp.Dropout(0.5))), np.random.default_rng(0).random((rows, 5), np.float32)
    params = model.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        evaluate.make_prediction(model)(params, None, x),
        model.forward(params, x, jaxbp.Context(train=False))[0],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_a_regression_is_scored_in_the_targets_own_units(tmp_path, capsys):
    x = np.linspace(-1, 1, 40)
    np.savetxt(tmp_path / "line.csv", np.column_stack([x, 1000 * x + 5000]), delimiter=",")
    config = Config(
        data=Csv(f"{tmp_path}/line.csv", header=False, task="regression", scale_targets=True),
        model=MLP(outputs=1, hidden=()),
        loss=SquaredError(),
        optimizer=SGD(learning_rate=1e-6),
        run=Run(epochs=1, batch_size=8),
    )
    jaxbp.train(config, tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    test = config.data.load().test
    run = jaxbp.load(tmp_path / "run")
    predicted = run.predict(test.x).values
    truth = run.preparation.targets(test.y)
    assert scores["test"]["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - truth) ** 2)))
    assert scores["test"]["rmse"] > 100
