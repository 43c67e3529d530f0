"""Several processes train one run, and act as one: what they leave, how they meet, and how they end."""

import json
import random
import signal
import time

import jax
import numpy as np
import pytest

from jaxbp.commands.__main__ import main
from jaxbp.training.run import load
from tests.support.processes import ended, free_port, start

WORDS = ("--config.model.hidden=16", "--config.run.mesh.data=4", "--config.run.mesh.fsdp=2")
SHORT = (*WORDS, "--config.run.epochs=2")


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_of_four_devices_are_one_run(tmp_path):
    """Their rows are those of one device, process 0 writes, and any number of devices goes on with what they left."""
    port = free_port()
    team = [start(tmp_path / "run", process, port, *SHORT) for process in (0, 1)]
    (status, out, error), (quiet_status, quiet_out, quiet_error) = map(ended, team)
    assert (status, quiet_status) == (0, 0), error + quiet_error
    assert (error, quiet_out, quiet_error) == ("", "", "")
    assert "mesh data=4 x fsdp=2 of 8 devices" in out
    assert main(["train", "digits_mlp", f"--workdir={tmp_path / 'alone'}", SHORT[0], SHORT[-1]]) == 0
    for row, expected in zip(rows_of(tmp_path / "run"), rows_of(tmp_path / "alone"), strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
    assert list(tmp_path.glob("*.log")) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--processes=2"], "--processes and --process need --coordinator=HOST:PORT"),
        (["--coordinator=here", "--processes=2", "--config.run.mesh.data=-1"], "must be HOST:PORT, got here"),
        (["--coordinator=localhost:1", "--processes=2"], "2 processes share no work without a mesh"),
        (
            ["--coordinator=localhost:1", "--processes=2", "--process=2", "--config.run.mesh.data=-1"],
            "must lie in 0..1",
        ),
        (["--coordinator=localhost:1", "--folds=3"], "--folds trains in one process"),
    ],
)
def test_what_is_refused_takes_one_line(words, line, tmp_path, capsys):
    assert main(["train", "digits_mlp", f"--workdir={tmp_path / 'run'}", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


@pytest.mark.nightly
def test_a_coordinator_that_does_not_answer(tmp_path):
    began = time.monotonic()
    status, _, error = ended(start(tmp_path / "run", 1, free_port(), *SHORT))
    assert status == 2
    assert error.count("\n") == 1
    assert "does not answer" in error
    assert time.monotonic() - began < 60


@pytest.mark.nightly
def test_a_process_of_another_config(tmp_path):
    port = free_port()
    began = time.monotonic()
    team = [start(tmp_path / "run", process, port, *SHORT, f"--config.run.seed={process}") for process in (0, 1)]
    for status, _, error in map(ended, team):
        assert status == 2
        assert error == "error: process 1 has run.seed=1, and process 0 has 0\n"
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_ends_all_saved(number, tmp_path):
    port = free_port()
    words = (*WORDS, "--config.run.epochs=2000")
    team = [start(tmp_path / "run", process, port, *words) for process in (0, 1)]
    wait_for(tmp_path / "run/metrics.jsonl")
    team[1].send_signal(number)
    for status, _, _ in map(ended, team):
        assert status == 128 + number
    assert list((tmp_path / "run/checkpoints").glob("[0-9]*"))


@pytest.mark.nightly
def test_ten_kills_end_with_the_same_parameters(tmp_path):
    """SIGKILL of either process at any time: the other ends within a minute, and the run goes on."""
    words = (*WORDS, "--config.run.epochs=6", "--config.run.checkpoint_seconds=0", "--config.run.steps_per_call=3")
    port = free_port()
    for result in map(ended, [start(tmp_path / "whole", process, port, *words) for process in (0, 1)]):
        assert result[0] == 0, result
    draw = random.Random(0)
    kills = 0
    for attempt in range(40):
        port = free_port()
        team = [start(tmp_path / "run", process, port, *words) for process in (0, 1)]
        if kills < 10:
            time.sleep(draw.uniform(4, 14))
            victim = team[attempt % 2]
            if victim.poll() is None:
                victim.kill()
                kills += 1
        began = time.monotonic()
        results = list(map(ended, team))
        if all(status == 0 for status, _, _ in results):
            break
        assert time.monotonic() - began < 60
        survivor = results[1 - attempt % 2]
        assert survivor[0] in (1, 2), survivor
        assert survivor[2].count("\n") == 1, survivor[2]
    assert all(status == 0 for status, _, _ in results)
    print(f"{kills} kills")
    whole, again = load(tmp_path / "whole"), load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def wait_for(path, seconds=200):
    """Until there is something in a file."""
    until = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
