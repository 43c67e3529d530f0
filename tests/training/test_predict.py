"""Predictions of a run for raw rows: the run's own preparation, class names, probabilities and units."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

import jaxbp
from jaxbp.data import Embedded, Function, Images, Npz
from jaxbp.losses import BinaryCrossEntropy, MulticlassHinge, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.training import evaluate
from jaxbp.training.loop import train
from jaxbp.training.predict import as_cell, as_columns, predict_file
from jaxbp.training.run import Prediction, load
from tests.support.paths import ROOT
from tests.support.runs import make_old, small

IRIS = Embedded("iris").table()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on iris, scaled."""
    path = tmp_path_factory.mktemp("iris")
    train(small(epochs=20, evaluate_every=20), path)
    return path


@pytest.fixture
def run(folder):
    return load(folder)


def test_raw_rows_get_the_runs_own_scaling_and_class_names(run):
    splits = run.config.data.load()
    prediction = run.predict(IRIS.x)
    x = run.preparation.apply(IRIS.x)
    y = np.asarray(run.model.forward(run.params, x, jaxbp.Context(train=False))[0], np.float64)
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    np.testing.assert_allclose(prediction.probabilities, p, rtol=1e-5)
    np.testing.assert_array_equal(prediction.labels, np.array(splits.classes)[p.argmax(1)])
    assert prediction.values is None
    assert (prediction.labels == np.array(splits.classes)[IRIS.y]).mean() > 0.9
    rows = {row.tobytes() for row in splits.train.x}
    assert sum(row.tobytes() in rows for row in x) >= len(splits.train)  # the very bits that training saw


@pytest.mark.slow
def test_any_number_of_rows_is_one_program(run):
    jax.clear_caches()
    evaluate.make_prediction.cache_clear()
    predict = evaluate.make_prediction(run.model)
    traces = []
    forward = type(run.model).forward

    def counted(model, params, x, ctx):
        traces.append(x.shape)
        return forward(model, params, x, ctx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run.model), "forward", counted)
        parts = [run.predict(IRIS.x[:n]).probabilities for n in (1, 2, 150)]
        many = run.predict(np.concatenate([IRIS.x] * 3)).probabilities
    assert traces == [(evaluate.PREDICTED, 4)]
    assert evaluate.make_prediction(load_again(run).model) is predict
    for part in parts:
        np.testing.assert_array_equal(part, parts[-1][: len(part)])
    np.testing.assert_allclose(many, np.concatenate([parts[-1]] * 3), rtol=1e-6)


def load_again(run):
    """The same model, made anew."""
    return run._replace(model=run.config.model.build())


def trained_as(run, loss, outputs, classes, **keys):
    """The run with another loss, and with an MLP of so many outputs, whose weights are random."""
    model = MLP(outputs=outputs, **keys).build()
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 4), np.float32))
    state = model.init_state(jax.ShapeDtypeStruct((1, 4), np.float32))
    config = replace(run.config, loss=loss)
    return run._replace(model=model, params=params, state=state, config=config, classes=classes)


def test_prediction_is_in_evaluation(run):
    """Dropout is off: the same row gives the same numbers, alone or among others."""
    dropping = trained_as(run, SoftmaxCrossEntropy(), 3, run.classes, hidden=(8,), dropout=0.5)
    alone = dropping.predict(IRIS.x[7:8]).probabilities
    np.testing.assert_array_equal(alone, dropping.predict(IRIS.x[7:8]).probabilities)
    np.testing.assert_allclose(alone[0], dropping.predict(IRIS.x).probabilities[7], rtol=1e-6)


def test_one_output_tells_two_classes_apart(run):
    binary = trained_as(run, BinaryCrossEntropy(), 1, ("no", "yes"))
    prediction = binary.predict(IRIS.x)
    y = np.asarray(binary.model.forward(binary.params, run.preparation.apply(IRIS.x), jaxbp.Context())[0])
    np.testing.assert_allclose(prediction.probabilities[:, 1], 1 / (1 + np.exp(-y[:, 0])), rtol=1e-5)
    np.testing.assert_allclose(prediction.probabilities.sum(1), 1)
    np.testing.assert_array_equal(prediction.labels, np.where(y[:, 0] > 0, "yes", "no"))


@pytest.mark.parametrize("loss", [MulticlassHinge(), SquaredError()])
def test_a_loss_without_probabilities_gives_labels_alone(run, loss):
    prediction = trained_as(run, loss, 3, run.classes).predict(IRIS.x[:5])
    assert prediction.probabilities is None
    assert prediction.values is None
    assert prediction.labels.shape == (5,)


def test_a_sequence_has_a_label_and_probabilities_at_every_step(run):
    """Outputs [N, T, classes] of a model for text."""
    y = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    p = evaluate.probabilities(y, SoftmaxCrossEntropy())
    assert p.shape == (2, 5, 3)
    np.testing.assert_allclose(p.sum(-1), 1)
    columns = as_columns(Prediction(np.array([["a", "b"], ["b", "a"]]), p, None), ("a", "b"))
    assert {name: column.tolist() for name, column in columns.items()} == {"label 0": ["a", "b"], "label 1": ["b", "a"]}


def test_values_are_in_the_targets_own_units(tmp_path):
    data = Function("square", examples=60, scaling="standard", scale_targets=True)
    config = small(epochs=100, evaluate_every=100)
    train(replace(config, data=data, model=replace(config.model, outputs=1), loss=SquaredError("mean")), tmp_path)
    run = load(tmp_path)
    x = np.linspace(-3, 3, 11)[:, None]
    prediction = run.predict(x)
    assert prediction.labels is None
    assert prediction.probabilities is None
    assert prediction.values.shape == (11, 1)
    assert np.abs(prediction.values - x**2).max() < 2  # of 0 to 9; scaled targets would be off by 7
    np.save(tmp_path / "x.npy", x)
    assert predict_file(tmp_path, tmp_path / "x.npy", tmp_path / "y.csv") == 11
    header, *lines = (tmp_path / "y.csv").read_text().splitlines()
    assert header == "value"
    np.testing.assert_allclose([float(line) for line in lines], prediction.values[:, 0], rtol=1e-8)


def lines_of(path):
    """The lines of a CSV file by the names of its columns."""
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_file_becomes_a_file(run, folder, tmp_path):
    """The same rows as CSV, .npy and .npz."""
    np.savetxt(tmp_path / "rows.csv", IRIS.x, delimiter=",")
    np.save(tmp_path / "rows.npy", IRIS.x)
    np.savez(tmp_path / "rows.npz", x=IRIS.x, y=IRIS.y)
    np.savez(tmp_path / "only.npz", rows=IRIS.x)
    for name in ("rows.csv", "rows.npy", "rows.npz", "only.npz"):
        assert predict_file(str(folder), tmp_path / name, tmp_path / f"{name}.out") == 150
    contents = {(tmp_path / f"{name}.out").read_bytes() for name in ("rows.csv", "rows.npy", "rows.npz", "only.npz")}
    assert len(contents) == 1
    rows = lines_of(tmp_path / "rows.csv.out")
    prediction = run.predict(IRIS.x)
    assert list(rows[0]) == ["label", *(f"probability {name}" for name in run.classes)]
    assert [row["label"] for row in rows] == prediction.labels.tolist()
    stored = np.array([[float(row[f"probability {name}"]) for name in run.classes] for row in rows])
    np.testing.assert_allclose(stored, prediction.probabilities, rtol=1e-8)


@pytest.mark.slow
def test_a_folder_of_images_is_predicted_by_name(tmp_path):
    random = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(*((0, 100) if name == "dark" else (155, 256)), (6, 5, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    config = small(epochs=40, evaluate_every=40)
    data = Images(str(tmp_path / "data"), scaling="standard", test_fraction=0.25)
    train(replace(config, data=data, model=replace(config.model, outputs=2)), tmp_path / "run")
    (tmp_path / "new").mkdir()
    for name, value in (("b.png", 250), ("a.png", 10)):
        Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(tmp_path / "new" / name)
    assert predict_file(tmp_path / "run", tmp_path / "new", tmp_path / "out.csv") == 2
    rows = lines_of(tmp_path / "out.csv")
    assert [(row["file"], row["label"]) for row in rows] == [("a.png", "dark"), ("b.png", "light")]
    Image.fromarray(np.zeros((7, 5, 3), np.uint8)).save(tmp_path / "new/c.png")
    with pytest.raises(jaxbp.InputError, match=r"c\.png: has 7 x 5 pixels"):
        predict_file(tmp_path / "run", tmp_path / "new", tmp_path / "out.csv")


def test_what_cannot_be_predicted_is_one_line_and_leaves_no_file(folder, tmp_path):
    np.savez(tmp_path / "two.npz", a=IRIS.x, b=IRIS.y)
    (tmp_path / "rows.csv").write_text("1,2,3,4\n")
    out = tmp_path / "out.csv"
    refused = [
        (tmp_path / "two.npz", out, "has no array x, only a, b"),
        (tmp_path / "nothing.npz", out, "cannot read"),
        (tmp_path / "rows.csv", tmp_path / "none/out.csv", "cannot write"),
        (tmp_path / "rows.csv", tmp_path / "rows.csv", "would overwrite their own input"),
    ]
    for source, target, message in refused:
        with pytest.raises(jaxbp.InputError, match=message) as refusal:
            predict_file(folder, source, target)
        assert "\n" not in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir()} == {"two.npz", "rows.csv"}
    assert (tmp_path / "rows.csv").read_text() == "1,2,3,4\n"


def test_the_preparation_is_written_at_the_start_and_verified(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run/preparation.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(b"1", b"2", 1))
    assert load(tmp_path / "run").preparation == load(folder).preparation  # the checkpoint has a copy
    assert "preparation.json is not what was written: the training command writes it again" in capsys.readouterr().out
    file.unlink()
    assert load(tmp_path / "run").preparation == load(folder).preparation
    assert "preparation.json cannot be read (No such file or directory): the training" in capsys.readouterr().out
    train(small(epochs=20, evaluate_every=20), tmp_path / "run")
    assert file.read_bytes() == content
    assert load(tmp_path / "run").preparation == load(folder).preparation


@pytest.mark.slow
def test_a_run_of_an_older_version_loads_and_says_what_it_lacks(tmp_path):
    config = small(epochs=1)
    train(config, tmp_path)
    make_old(tmp_path, preparation=False)
    run = load(tmp_path)
    with pytest.raises(jaxbp.InputError, match=r"no preparation\.json: the training command that made it adds one"):
        run.predict(IRIS.x)
    train(config, tmp_path)
    np.testing.assert_array_equal(run.params["01_dense"]["w"], load(tmp_path).params["01_dense"]["w"])
    assert load(tmp_path).predict(IRIS.x).labels.shape == (150,)


@pytest.mark.slow
def test_prediction_needs_no_data_file_and_no_scikit_learn(tmp_path):
    """In a process of its own: the run's data is gone, and scikit-learn and pandas cannot be imported."""
    np.savez(tmp_path / "data.npz", x=IRIS.x, y=IRIS.y)
    data = Npz(str(tmp_path / "data.npz"), test_fraction=0.4, scaling="standard")
    train(replace(small(epochs=1), data=data), tmp_path / "run")
    labels = load(tmp_path / "run").predict(IRIS.x).labels
    (tmp_path / "data.npz").unlink()
    np.save(tmp_path / "rows.npy", IRIS.x)
    program = f"""
import sys
sys.modules["sklearn"] = sys.modules["pandas"] = sys.modules["matplotlib"] = None
import json, jaxbp
run = jaxbp.load({str(tmp_path / "run")!r})
print(json.dumps(run.predict({str(tmp_path / "rows.npy")!r}).labels.tolist()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == labels.tolist()


def test_cells():
    assert as_cell("a, b") == "a, b"
    assert as_cell(np.float32(0.1)) == "0.100000001"
    assert np.float32(as_cell(np.float32(1e-30))) == np.float32(1e-30)
