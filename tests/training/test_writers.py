"""Where figures go besides the run folder, and the trace of a step."""

import json

import pytest

from jaxbp.commands import train as command
from jaxbp.commands.__main__ import main
from jaxbp.training import writers
from jaxbp.training.feeds import calls
from jaxbp.training.loop import train
from tests.support.paths import ROOT
from tests.support.runs import small, weights


def test_a_call_ends_at_every_stop():
    assert list(calls(0, 10, 4, 100, None, ends=(102, 103))) == [(0, 2), (2, 1), (3, 4), (7, 3)]
    assert list(calls(0, 10, 4, 100, 5, ends=(90, 107))) == [(0, 4), (4, 1), (5, 2), (7, 3)]


def test_a_row_is_its_numbers():
    row = {"epoch": 1, "loss": 0.5, "norms": {"00_gru": [1.0, 2.0], "a": 3.0}, "name": "x"}
    assert dict(writers.numbers(row)) == {"epoch": 1.0, "loss": 0.5, "norms/a": 3.0}


@pytest.mark.slow
def test_a_writer_gets_every_row_and_a_trace_changes_no_bit(tmp_path, monkeypatch):
    """Both in one run, which is the same as one without them."""
    rows = []

    class Recorder:
        def __init__(self, config, folder, run, step):
            rows.append((run, step))

        def write(self, step, figures):
            rows.append((step, figures))

        def close(self):
            rows.append("closed")

    monkeypatch.setitem(writers.WRITERS, "wandb", Recorder)
    train(small(epochs=2), tmp_path / "plain")
    train(small(epochs=2, writers=("wandb",), profile_step=3), tmp_path / "run")
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (run, step), *written, end = rows
    assert (step, end) == (0, "closed")
    assert run == json.loads((tmp_path / "run/run.json").read_text())["runs"][0]
    for row, (step, figures) in zip(metrics, written, strict=True):
        assert step == row["step"]
        assert figures.items() >= dict(writers.numbers(row)).items()
        assert figures["steps_per_second"] > 0
    assert weights(tmp_path / "run") == weights(tmp_path / "plain")
    assert len(list((tmp_path / "run/profile").rglob("perfetto_trace.json.gz"))) == 1
    assert len(list((tmp_path / "run/profile").rglob("*.xplane.pb"))) == 1


def test_a_writer_whose_library_is_missing_is_told_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "tensorboardX" else object())
    words = ["train", str(ROOT / "configs/iris.py"), f"--workdir={tmp_path}/run", "--config.run.writers=tensorboard"]
    assert main(words) == 2
    assert capsys.readouterr().err == "error: tensorboardX is missing: pip install 'jaxbp[tensorboard]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_gets_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    train(small(epochs=1, writers=("tensorboard",)), tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"train_loss" in file.read_bytes()


@pytest.mark.slow
def test_weights_and_biases_get_an_offline_run(tmp_path):
    pytest.importorskip("wandb")
    train(small(epochs=1, writers=("wandb",)), tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"train_loss" in file.read_bytes()
