"""Damaged run folders: each ends in the right bytes or in one line, never in a traceback or in other weights."""

import shutil
import time
from collections import Counter

import pytest

import jaxbp
from jaxbp.commands.__main__ import main
from jaxbp.training import loop
from jaxbp.training.fsck import inspect
from jaxbp.training.loop import train
from tests.support.damaged_runs import FOLDER, ONE_FILE, damage
from tests.support.runs import small, weights

SETTINGS = {"epochs": 3, "checkpoint_seconds": 0.0, "steps_per_call": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and one of another seed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train(small(seed=seed, **SETTINGS), folder / str(seed))
    return folder


def outcome(work, right):
    """What a command shows: the right result, one line, or another one. An exception that is no line is a traceback."""
    start = time.monotonic()
    try:
        result = "right" if work() == right else "OTHER"
    except (jaxbp.InputError, OSError) as error:  # the two that a command turns into one line, with exit status 2
        result = "one line" if "\n" not in str(error) else "MANY LINES"
    except Exception as error:
        result = f"TRACEBACK {error!r}"
    return result if time.monotonic() - start < 10 else f"{result}, SLOW"


def consistent(kind, loads, trains, said, after):
    """Whether fsck says the same as what the commands did, and nothing is left to mend after training."""
    if not {loads, trains} <= {"right", "one line"}:
        return False
    if trains == "right" and after != "whole":
        return False
    return said == "damaged" if "one line" in (loads, trains) else said != "damaged"


def state(run):
    states = {finding.state for finding in inspect(run)}
    return next((state for state in ("damaged", "can be made again") if state in states), "whole")


def outcomes(seeds, runs, folder):
    """Counts of (kind of damage, what load did, what train did, what fsck said)."""
    config = small(**SETTINGS)
    right = weights(runs / "0")
    rows = (runs / "0/metrics.jsonl").read_bytes()

    def trained():
        train(config, run)
        return weights(run), (run / "metrics.jsonl").read_bytes()

    counts = Counter()
    wrong = []
    for seed in seeds:
        run = shutil.copytree(runs / "0", folder / str(seed))
        kind, where = damage(run, runs / "1", seed)
        said = state(run)
        loads = outcome(lambda run=run: weights(run), right)
        trains = outcome(trained, (right, rows))
        after = state(run)
        if not consistent(kind, loads, trains, said, after):
            wrong.append((seed, kind, where, loads, trains, said, after))
        counts[kind, loads, trains, said] += 1
        shutil.rmtree(run)
    return counts, wrong


@pytest.mark.slow
def test_damaged_runs_are_right_or_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "draw", lambda *_: None)
    counts, wrong = outcomes(range(7, 21), runs, tmp_path)
    assert wrong == []
    assert {kind for kind, *_ in counts} == {*ONE_FILE, *FOLDER}


@pytest.mark.nightly
def test_a_thousand_damaged_runs_are_right_or_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "draw", lambda *_: None)
    counts, wrong = outcomes(range(1000), runs, tmp_path)
    assert wrong == []
    for row, count in sorted(counts.items()):
        print(*row, count, sep=" | ")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [8, 13, 16, 17])
def test_commands_end_in_the_right_score_or_in_one_line(seed, runs, tmp_path, capsys):
    """In the command itself, an exit status of 0 comes with the scores of the right weights, and 2 with one line."""
    run = shutil.copytree(runs / "0", tmp_path / "run")
    assert main(["evaluate", str(run)]) == 0
    scores = (run / "scores.json").read_bytes()
    damage(run, runs / "1", seed)
    capsys.readouterr()
    status = main(["evaluate", str(run)])
    out, err = capsys.readouterr()
    assert (status, err.count("\n")) in [(0, 0), (2, 1)]
    assert status == 2 or (run / "scores.json").read_bytes() == scores
    assert "Traceback" not in out + err
