"""Cross-validation: a fold's run knows its fold, and all folds together have scores."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.stats import binomtest

import jaxbp
from jaxbp.config import from_json, to_json
from jaxbp.data import Adding, Embedded, Function, cross_validation
from jaxbp.losses import SquaredError
from jaxbp.training.cross_validate import cross_validate
from jaxbp.training.fold import Fold
from jaxbp.training.report.curves import read_metrics
from jaxbp.training.report.scores import measure
from jaxbp.training.run import fingerprint, load
from tests.support.runs import small

CONFIG = small(epochs=2, evaluate_every=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three folds of iris in a folder."""
    path = tmp_path_factory.mktemp("folds")
    cross_validate(CONFIG, path, 3)
    return path


@pytest.mark.slow
def test_the_run_of_a_fold_is_scored_on_its_own_test_part(folder):
    """Loaded as evaluate does it: the data are those of the run, and the accuracy is that of the training."""
    table = CONFIG.data.table()[0]
    for i, (_, rows) in enumerate(cross_validation(table, 3, CONFIG.data.seed)):
        run = load(folder / f"fold_{i:02d}")
        splits = run.config.data.load()
        assert run.config.data == Fold(CONFIG.data, i, 3)
        assert fingerprint(splits) == run.data
        np.testing.assert_array_equal(run.preparation.apply(table.x[rows]), splits.test.x)
        last = read_metrics(folder / f"fold_{i:02d}/metrics.jsonl")[-1]
        right = run.predict(table.x[rows]).labels == np.array(splits.classes)[table.y[rows]]
        assert right.mean() == pytest.approx(last["test_accuracy"])


@pytest.mark.slow
def test_all_folds_have_one_confusion_matrix_and_an_interval(folder):
    scores = json.loads((folder / "scores.json").read_text())["folds"]
    confusion = np.array(scores["confusion"])
    assert confusion.sum(1).tolist() == [50, 50, 50]
    parts = [load(folder / f"fold_{i:02d}") for i in range(3)]
    separate = []
    for run in parts:
        test = run.config.data.load().test
        y, _ = run.model.forward(run.params, test.x, jaxbp.Context(train=False))
        separate.append(measure(np.asarray(y), test.y, run.config.loss, run.classes))
    np.testing.assert_array_equal(confusion, sum(np.array(part.confusion) for part in separate))
    hits = int(np.trace(confusion))
    interval = binomtest(hits, 150).proportion_ci(0.95, "wilson")
    assert scores["accuracy"] == hits / 150
    assert scores["interval"] == [interval.low, interval.high]


@pytest.mark.slow
def test_the_output_names_the_fold_and_shows_the_scores(folder, capsys):
    figures = cross_validate(CONFIG, str(folder), 3)  # all of them are there: it only shows them again
    out = capsys.readouterr().out
    for i in range(3):
        assert f"fold {i + 1} of 3, in {folder}/fold_{i:02d}" in out
    assert "all 3 folds, each by the model that was not trained on it" in out
    assert "true \\ predicted  setosa  versicolor  virginica" in out
    stored = json.loads((folder / "cross_validation.json").read_text())
    accuracies = [row["test_accuracy"] for row in stored["folds"]]
    assert figures["test_accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert figures["test_accuracy_stdev"] == pytest.approx(np.std(accuracies, ddof=1))
    assert stored == figures | {"folds": stored["folds"]}


@pytest.mark.slow
def test_another_number_of_folds_or_of_epochs_says_so(folder):
    with pytest.raises(jaxbp.InputError, match=r"fold_00 .*data\.folds was 3 and is 4 .*--workdir"):
        cross_validate(CONFIG, folder, 4)
    with pytest.raises(jaxbp.InputError, match=r"run\.epochs=1 would end at step 7, .* already at step 14"):
        cross_validate(replace(CONFIG, run=replace(CONFIG.run, epochs=1)), folder, 3)


@pytest.mark.slow
def test_fresh_folds_replace_all_earlier_ones(folder, tmp_path):
    cross_validate(CONFIG, tmp_path, 3)
    (tmp_path / "fold_notes").mkdir()
    (tmp_path / "fold_02/notes.txt").write_text("mine")
    cross_validate(CONFIG, tmp_path, 2, fresh=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"fold_00", "fold_01", "fold_02", "fold_notes", "scores.json", "cross_validation.json"}
    assert [path.name for path in (tmp_path / "fold_02").iterdir()] == ["notes.txt"]


def test_folds_depend_on_the_seed_of_the_data():
    first = lambda data: Fold(data, 0, 3).load().test.x.tolist()
    assert first(CONFIG.data) == first(CONFIG.data)
    assert first(CONFIG.data) != first(replace(CONFIG.data, seed=1))


@pytest.mark.slow
def test_a_fold_is_a_data_set_like_any_other():
    digits = Embedded("digits", image=True, shift=2)
    config = replace(CONFIG, data=Fold(digits, 1, 4))
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    x = np.ones((2, 8, 8, 1), np.float32)
    key = jax.random.key(0)
    np.testing.assert_array_equal(config.data.augment(key, x), digits.augment(key, x))
    with pytest.raises(jaxbp.InputError, match="Fold: index must be below folds=4, got 4"):
        Fold(digits, 4, 4)
    with pytest.raises(jaxbp.InputError, match="--folds needs data in one table, and Adding has its own test part"):
        cross_validate(replace(CONFIG, data=Adding()), "nowhere", 3)


@pytest.mark.slow
def test_targets_of_all_folds_are_in_their_own_units(tmp_path):
    """Each fold scales the targets by its own training part; the scores of all are on the scale of the table."""
    data = Function("square", examples=60, scale_targets=True)
    model = replace(CONFIG.model, outputs=1)
    cross_validate(replace(CONFIG, data=data, model=model, loss=SquaredError("mean")), tmp_path, 3)
    errors = []
    for i in range(3):
        run = load(tmp_path / f"fold_{i:02d}")
        splits = run.config.data.load()
        values = run.predict(splits.test.x).values
        errors.append(values - splits.test.x**2)
    scores = json.loads((tmp_path / "scores.json").read_text())["folds"]
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)


@pytest.mark.slow
def test_a_start_over_of_the_folds_leaves_other_runs_beside_them(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in ("fold_00_backup", "fold_mine"):
        shutil.copytree(folder / "fold_00", tmp_path / name)
    cross_validate(CONFIG, tmp_path, 2, fresh=True)
    assert sorted(path.name for path in tmp_path.glob("fold_*")) == [
        "fold_00",
        "fold_00_backup",
        "fold_01",
        "fold_mine",
    ]
    assert load(tmp_path / "fold_00_backup").config.data == Fold(CONFIG.data, 0, 3)


@pytest.mark.slow
def test_folds_leave_a_run_and_files_of_others_alone(folder, tmp_path):
    run = shutil.copytree(folder / "fold_00", tmp_path / "run")
    with pytest.raises(jaxbp.InputError, match="run is the folder of a run, and folds need one of their own"):
        cross_validate(CONFIG, run, 2)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "scores.json").write_text("mine")
    with pytest.raises(jaxbp.InputError, match=r"it has scores\.json"):
        cross_validate(CONFIG, notes, 2)
    assert [path.name for path in notes.iterdir()] == ["scores.json"]
