"""A search: its runs are those of train, however many are one program, and what is done is not done again."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.commands import search as command
from jaxbp.commands.__main__ import main
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import from_json, replace_keys
from jaxbp.errors import InputError
from jaxbp.run import Run
from jaxbp.training import search as searching
from jaxbp.training.loop import train
from jaxbp.training.many import Outcome
from jaxbp.training.numbers import Traced, together
from jaxbp.training.run import fingerprint
from jaxbp.training.search import all_points, keep, search
from tests.support.runs import small

CONFIG = small(epochs=2, evaluate_every=1, batch_size=20)
GRID = {"optimizer.learning_rate": [1e-3, 1e38, 0.1], "model.hidden": [(4,), (3, 3)]}


# --- programs that differ in numbers --------------------------------------------------------------------------------


def plus(scale, table, deep=False):
    """A function with a scalar, a constant array and a branch."""

    @jax.jit
    def inner(x):
        return jax.lax.cond(x.sum() > scale, lambda: x * scale + table, lambda: jnp.sin(x) if deep else x - scale)

    return lambda x: {"y": inner(jax.nn.relu(x)) ** 2}


def test_functions_that_differ_in_numbers_are_one_program():
    x = jnp.arange(3.0)
    functions = [plus(scale, np.full(3, scale, np.float32)) for scale in (0.1, 0.2, 7.0)]
    traced = [Traced.of(function, x) for function in functions]
    assert len({one.outline for one in traced}) == 1
    function, numbers = together(traced)
    results = jax.jit(jax.vmap(function, in_axes=(0, None)))(numbers, x)["y"]
    np.testing.assert_allclose(results, np.stack([f(x)["y"] for f in functions]), rtol=1e-6)
    assert {number.shape for number in numbers} == {(3,), (3, 3)}


def test_functions_of_another_structure_are_not():
    x = jnp.arange(3.0)
    outline = lambda function, x=x: Traced.of(function, x).outline
    base = outline(plus(0.1, np.zeros(3, np.float32)))
    assert base == outline(plus(0.3, np.ones(3, np.float32)))
    assert base != outline(plus(0.1, np.zeros(3, np.float32), deep=True))
    assert base != outline(plus(0.1, np.zeros(1, np.float32)))
    assert outline(plus(0.1, 1.0)) != outline(plus(0.1, 1.0), jnp.arange(4.0))
    assert base != outline(lambda x: {"z": plus(0.1, np.zeros(3, np.float32))(x)["y"]})
    loop = lambda scale: lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * scale, x)
    assert outline(loop(2.0)) == outline(loop(2.0)) != outline(loop(3.0))


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """(results, folder) of a search with two seeds, of which some points fail."""
    path = tmp_path_factory.mktemp("search")
    return search(CONFIG, path, GRID, seeds=2), path


@pytest.mark.slow
def test_every_run_is_that_of_train(searched, tmp_path):
    path = searched[1]
    lines = [json.loads(line) for line in (path / "points.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    for line in lines[:2] + lines[-1:]:
        keys = {"run.seed": line["seed"], "optimizer.learning_rate": float(line["keys"]["optimizer.learning_rate"])}
        config = replace_keys(CONFIG, keys | {"model.hidden": eval(line["keys"]["model.hidden"])})
        alone = train(config, tmp_path / line["point"])
        assert line["metrics"] == pytest.approx({k: v for k, v in alone.items() if k != "delta_norms"}, rel=1e-6)


@pytest.mark.slow
def test_runs_of_one_shape_are_one_program_and_a_failed_one_stops_no_other(searched):
    results, path = searched
    failed = [result for result in results if result.failures]
    assert {result.keys["optimizer.learning_rate"] for result in failed} == {"1e+38"}
    assert [len(result.failures) for result in failed] == [2, 2]
    assert "seed 0 not finite at step" in failed[0].failures[0]
    assert all(len(result.values) == 2 for result in results if result not in failed)
    assert results[-2:] == failed
    means = [result.figures["test_accuracy_mean"] for result in results[:-2]]
    assert means == sorted(means, reverse=True)
    best = json.loads((path / "best.json").read_text())
    assert best["keys"] == results[0].keys
    assert best["config"]["optimizer"]["learning_rate"] == float(best["keys"]["optimizer.learning_rate"])
    text = (path / "table.txt").read_text()
    assert "not finite at step" in text
    assert "chosen by its test part" in text
    assert (path / "search.png").stat().st_size > 1000


@pytest.mark.slow
def test_what_is_done_is_not_done_again(searched, monkeypatch, capsys):
    results, path = searched
    made = []
    run_many = searching.run_many

    def note(plans, *others):
        made.append(len(plans))
        return run_many(plans, *others)

    monkeypatch.setattr(searching, "run_many", note)
    assert search(CONFIG, path, GRID, seeds=2) == results
    assert made == []
    whole = (path / "points.jsonl").read_bytes()
    (path / "points.jsonl").write_bytes(whole[:-30])  # killed while it wrote the last line
    assert search(CONFIG, path, GRID, seeds=2) == results
    assert made == [1]
    search(CONFIG, path, GRID, seeds=3)  # a wider search takes what is there
    assert made == [1, 3, 3]
    assert "18 runs, 12 of them done, 2 programs for the others" in capsys.readouterr().out


def test_another_search_in_the_folder_has_rows_of_its_own(tmp_path, monkeypatch):
    """What is there is found by its values, and shown by the keys and texts that this search gives."""
    monkeypatch.setattr(searching, "draw_results", lambda *others: None)
    config = EXPERIMENTS["xor"]
    prints = fingerprint(config.load_data())
    for rate, seed, loss in (("1e-2", 0, 1.0), ("1e-1", 0, 2.0), ("0.01", 1, 3.0), ("0.1", 1, 4.0)):
        (point,) = all_points(config, {"optimizer.learning_rate": [rate], "run.seed": [seed]}, 1)
        outcome = Outcome(None, [{"test_loss": loss}])
        keep(tmp_path / "points.jsonl", point, point.digest(prints), outcome)
    rates = ["0.010", "0.10"]
    found = search(config, tmp_path, {"optimizer.learning_rate": rates}, seeds=2)
    assert [result.values for result in found] == [(1.0, 3.0), (2.0, 4.0)]
    assert [result.keys for result in found] == [{"optimizer.learning_rate": rate} for rate in rates]
    wider = {"run.epochs": ["1000"], "optimizer.learning_rate": rates}
    (best, _) = search(config, tmp_path, wider)
    assert best.keys == {"run.epochs": "1000", "optimizer.learning_rate": "0.010"}
    stored = from_json(json.loads((tmp_path / "best.json").read_text())["config"])
    assert stored == replace_keys(config, {"optimizer.learning_rate": 0.01})


def test_patience_ends_a_run_and_keeps_its_best_row():
    outcome = Outcome(Run(9, patience=2))
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.5]):
        assert not outcome.ended
        outcome.add({"step": step, "train_loss": 1.0, "validation_loss": loss}, True)
    assert outcome.ended
    assert outcome.row == {"step": 1, "train_loss": 1.0, "validation_loss": 1.0}
    outcome = Outcome(Run(9, stop_at_loss=0.5))
    for step, loss in enumerate([2.0, 1.0, 0.5]):
        assert not outcome.ended
        outcome.add({"step": step, "train_loss": loss}, True)
    assert outcome.ended
    assert outcome.row == {"step": 2, "train_loss": 0.5}
    outcome = Outcome(Run(9))
    outcome.add({"step": 1, "test_loss": 1.0}, True)
    outcome.add({"step": 2, "test_loss": float("nan")}, True)
    assert (outcome.failed, outcome.row) == ("test_loss not finite at step 2", {"step": 1, "test_loss": 1.0})


# --- words ----------------------------------------------------------------------------------------------------------


def test_grids_are_read():
    words = ["iris.py", "--grid", "a.b=1,2", "--seeds=3", "--grid=c=4;5,6", "--grid", "d=x"]
    others = command.grids_as_one(words)
    assert others[:2] == ["iris.py", "--seeds=3"]
    assert command.read_grid(others[2].removeprefix("--grid=")) == {"a.b": ["1", "2"], "c": ["4", "5,6"], "d": ["x"]}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--grid", "optimizer.learning_rat=1"], "unknown option '--config.optimizer.learning_rat'; did you mean"),
        (["--grid", "optimizer.learning_rate=-1,1"], "--config.optimizer.learning_rate must be .* got '-1'"),
        (["--grid", "optimizer.learning_rate"], "--grid must be KEY=VALUE,VALUE, got 'optimizer.learning_rate'"),
        (["--grid", "run.epochs=1", "--grid=run.epochs=2"], "--grid run.epochs is given twice"),
        (["--grid", "run.epochs=1,1"], "--grid run.epochs: needs values, each once, got '1,1'"),
        (["--grid", "optimizer.learning_rate=1e-2,1,0.01"], "learning_rate: .* each once, and '1e-2' is '0.01'"),
        (["--seeds=99999999999"], "a search has at most 10,000 runs, got 99,999,999,999"),
        (["--grid", "run.seed=1,2", "--seeds=2"], "run.seed is searched already: --seeds must be 1"),
        (["--config.run.seed=4294967295", "--seeds=2"], "goes beyond the largest seed"),
        (["--grid"], "--grid needs a value"),
        (["--seeds=0"], "--seeds must be an integer of at least 1, got '0'"),
        (["--grid", "model.outputs=10,3"], "the model has 3 outputs, but the data has 10 classes"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, tmp_path, words, line):
    assert main(["search", "digits_mlp", *words, f"--workdir={tmp_path / 'search'}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(line, err)
    assert not (tmp_path / "search").exists()


def test_the_folder_of_a_search_is_left_alone(tmp_path, capsys):
    (tmp_path / "points.jsonl").touch()
    assert main(["train", "xor", f"--workdir={tmp_path}"]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path} is the folder of a search: --workdir=DIR puts this run elsewhere\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["points.jsonl"]


def test_the_folder_of_a_run_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError):
        search(CONFIG, tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
