"""Runs that survive: killed at any instant, on rotten disks and by signals, they end with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import jaxbp
from jaxbp import optim
from jaxbp.config import to_json
from jaxbp.data import Embedded
from jaxbp.training import checkpoint
from jaxbp.training.checkpoint import Checkpoints, load_arrays, verify
from jaxbp.training.folder import differences
from jaxbp.training.loop import train
from jaxbp.training.signals import Interrupted
from tests.support.paths import ROOT
from tests.support.runs import small, weights


def config(**run):
    """Momenta, a schedule, dropout, a ragged batch, early stopping's copies: everything that must come back."""
    short = {"epochs": 6, "evaluate_every": 2, "steps_per_call": 2, "checkpoint_seconds": 0.0, "patience": 50}
    base = small(**(short | run))
    return replace(
        base,
        model=replace(base.model, dropout=0.3),
        optimizer=optim.Adam(schedule=optim.Cosine()),
        data=replace(base.data, validation_fraction=0.2),
    )


def process(path, folder, point="none", count=0, before=()):
    words = [*before, sys.executable, str(ROOT / "tests/support/killed.py"), str(path), str(folder), point, str(count)]
    cached = {
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "compiled"),  # each process needs the same programs
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | cached
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.mark.slow
def test_resumed_in_every_place_gives_the_same_bytes(tmp_path, monkeypatch):
    """In one process: the run is ended by an exception at each call and evaluation in turn, and started again."""
    whole = train(config(), tmp_path / "whole")
    stop_at = {"count": 0}

    class Ended(Exception):
        pass

    def note(point):
        stop_at["count"] -= 1
        if stop_at["count"] == 0:
            raise Ended

    monkeypatch.setattr("jaxbp.training.loop.reached", note)
    ended = 0
    for gap in (1, 3, 2, 5, 4, 10**9):
        stop_at["count"] = gap
        try:
            last = train(config(), tmp_path / "parts")
        except Ended:
            ended += 1
    assert ended == 5
    assert last == whole
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert len(json.loads((tmp_path / "parts/provenance.json").read_text())) == 6


FIVE = {"half": 1, "manifest": 1, "renamed": 1, "call": 1, "evaluated": 1}
THIRTY = {"begun": 4, "half": 4, "arrays": 6, "manifest": 6, "renamed": 2, "call": 6, "evaluated": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills", [pytest.param(kills, id=str(sum(kills.values())), marks=pytest.mark.nightly) for kills in (FIVE, THIRTY)]
)
def test_kills_and_a_flipped_bit_leave_the_same_bytes(kills, tmp_path):
    """SIGKILL at seeded instants: while a checkpoint is written, between write and commit, in an epoch. Then a bit of
    the newest checkpoint is flipped. Every process resumes what the one before left."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(config(epochs=40, evaluate_every=5))))
    assert process(path, tmp_path / "whole").returncode == 0
    kinds = [point for point, times in kills.items() for _ in range(times)]
    chance = random.Random(0)
    chance.shuffle(kinds)
    run = tmp_path / "run"
    steps = []
    for point in kinds:
        done = process(path, run, point, 1 if point == "evaluated" else chance.randint(2, 5))
        assert done.returncode == -signal.SIGKILL, (point, done.stdout, done.stderr)
        steps.append(max((int(p.name) for p in (run / "checkpoints").glob("[0-9]*")), default=0))
    assert len(set(steps)) > 2 / 3 * len(kinds)  # the run went on between the kills: they are spread over it
    newest = max((run / "checkpoints").glob("[0-9]*"))
    flip(max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size), chance)
    done = process(path, run)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {newest.name} is skipped: " in done.stdout
    assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert weights(run) == weights(tmp_path / "whole")


def flip(file, chance):
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def tree():
    return {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "n": np.int32(3)}


def test_every_flipped_byte_and_missing_file_is_noticed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(), {"a": 1})
    checkpoints.save(2, tree(), {"a": 2})
    chance = random.Random(1)
    newest = tmp_path / "0000000002"
    assert verify(newest) is None
    for file in [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]:
        before = file.read_bytes()
        flip(file, chance)
        assert verify(newest) is not None, file
        file.write_bytes(before[:-1])
        assert verify(newest) is not None, file
        file.unlink()
        assert verify(newest) is not None, file
        file.write_bytes(before)
    (newest / "stray").write_text("")
    (_, problem), (_, facts) = checkpoints.read()
    assert str(problem).startswith("its files are not those of its manifest")
    assert facts["a"] == 1


def test_only_the_newest_stay_and_leftovers_go(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    (tmp_path / "writing.0000000001").mkdir(parents=True)
    (tmp_path / "deleting.0000000009").mkdir()
    for step in (1, 5, 12, 12):
        checkpoints.save(step, tree(), {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000000005", "0000000012"]
    path, facts = next(checkpoints.read())
    assert facts == {"step": 12, "run": ""}
    loaded = load_arrays(path / "arrays", tree())
    np.testing.assert_array_equal(loaded["w"], tree()["w"])


def test_arrays_of_another_structure_or_shape_are_refused(tmp_path):
    checkpoint.save_arrays(tmp_path / "arrays", tree())
    for like in (tree() | {"w": np.zeros((3, 3), np.float32)}, {"w": tree()["w"]}, tree() | {"x": np.int32(1)}):
        with pytest.raises(ValueError, match=r"shape|structure"):
            load_arrays(tmp_path / "arrays", like)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(number, tmp_path, monkeypatch, capsys):
    rare = config(checkpoint_seconds=1e6)
    train(rare, tmp_path / "whole")
    calls = []

    def note(point):
        calls.append(point)
        if len(calls) == 4:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("jaxbp.training.loop.reached", note)
    with pytest.raises(Interrupted) as ended:
        train(rare, tmp_path / "run")
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    assert "the same command resumes the run" in capsys.readouterr().out
    train(rare, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_the_command_ends_cleanly_on_sigterm(tmp_path):
    words = [str(ROOT / "scripts/train.py"), f"--workdir={tmp_path}", "--config.run.epochs=100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([sys.executable, *words], cwd=ROOT, **pipes)
    while "epoch" not in running.stdout.readline():
        time.sleep(0.01)
    running.terminate()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert "interrupted and saved at step" in out
    assert err == ""


@pytest.mark.slow
def test_another_config_is_refused_field_by_field(tmp_path):
    train(small(epochs=1), tmp_path)
    changed = replace(small(epochs=1, seed=3), optimizer=optim.Adam())
    with pytest.raises(jaxbp.InputError, match=r"run\.seed was 0 and is 3") as caught:
        train(changed, tmp_path)
    assert "optimizer.learning_rate was 0.1 and is 0.001" in str(caught.value)
    assert "optimizer.type was SGD and is Adam" in str(caught.value)
    assert "\n" not in str(caught.value)
    last = train(small(epochs=2, steps_per_call=7), tmp_path)  # more epochs, other calls: it goes on
    assert last["epoch"] == 2
    assert train(changed, tmp_path, fresh=True)["epoch"] == 1


@pytest.mark.slow
def test_other_data_are_refused(tmp_path, monkeypatch):
    train(small(epochs=1), tmp_path)
    load = Embedded.load

    def moved(config):
        splits = load(config)
        splits.train.x[0, 0] += 1
        return splits

    monkeypatch.setattr(Embedded, "load", moved)
    with pytest.raises(jaxbp.InputError, match="the data differ"):
        train(small(epochs=2), tmp_path)


@pytest.mark.slow
def test_another_version_is_a_warning_line(tmp_path, monkeypatch, capsys):
    train(small(epochs=1), tmp_path)
    monkeypatch.setattr("jaxbp.machine.threads", lambda: 64)
    train(small(epochs=2), tmp_path)
    assert "not bit-exact with the run so far" in capsys.readouterr().out


def test_differences_name_nested_fields():
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "c": [1]}, "d": 3}) == {
        "a.b": "a.b was 1 and is 2",
        "d": "d was None and is 3",
    }
