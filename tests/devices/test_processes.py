"""Several processes train one run, and act as one: what they leave, how they meet, and how they end."""

import json
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxbp import optim
from jaxbp.commands.__main__ import main
from jaxbp.config import replace_keys, to_json
from jaxbp.credit import WeightMirror
from jaxbp.devices.mesh import MeshShape
from jaxbp.training.loop import Session, train
from tests.support import steps, wide
from tests.support.meshes import CONFIGS, losses, on, session_of
from tests.support.processes import ended, free_port, python, start, start_both
from tests.support.runs import weights

WORDS = ("--config.model.hidden=16", "--config.run.mesh.data=4", "--config.run.mesh.fsdp=2")
SHORT = (*WORDS, "--config.run.epochs=2")


def rows_of(folder, name="metrics.jsonl"):
    """The rows of a log that are there."""
    file = folder / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


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


def test_a_signal_after_the_vote_counts_in_the_next():
    """Else its process would leave while the others go on, for they do not know of it."""
    caught = []

    def agree(vote):
        caught[:] = [signal.SIGTERM]
        return [vote, [False, []]]

    session = SimpleNamespace(team=SimpleNamespace(agree=agree), saved=time.monotonic(), interval=lambda: 60.0)
    assert Session.due(session, caught) == (False, [])
    assert Session.due(session, caught) == (True, [signal.SIGTERM])


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
def test_losses_of_all_kinds_are_those_of_one_device(tmp_path):
    """50 steps each: dense, convolutional with batch norm, recurrent, transformer."""
    port = free_port()
    script = Path(steps.__file__)
    team = [python(tmp_path, str(script), str(port), str(process), str(tmp_path / "shared")) for process in (0, 1)]
    for status, out, error in [ended(process, 600) for process in team]:
        assert status == 0, error
        shared = json.loads(out)
        for name, config in CONFIGS.items():
            alone = losses(*session_of(config, tmp_path / name), steps.STEPS)
            difference = np.max(np.abs(np.array(shared[name]) / alone - 1))
            print(f"{name}: from {alone[0]:.4f} to {alone[-1]:.4f}, largest relative difference {difference:.1e}")
            assert difference < 1e-6


@pytest.mark.nightly
@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": optim.KFAC(), "run.health_every": 6},
        {"optimizer": optim.SGD(0.05, private=optim.Private())},
        {"credit": WeightMirror(), "run.health_every": 6},
    ],
    ids=["curvature", "private", "credit"],
)
def test_what_asks_for_more_than_a_gradient_is_one_run_too(keys, tmp_path):
    """The same rows as on one device, and the same figures of the looks to their four digits."""
    config = replace_keys(CONFIGS["dense"], {"run.micro_batches": 1, "run.evaluate_every": 1} | keys)
    file = config_file(tmp_path, on(config, 4, 2))
    for status, out, error in map(ended, start_both(tmp_path / "shared", config=file)):
        assert status == 0, error
        print(out)
    train(config, tmp_path / "alone")
    np.testing.assert_allclose(
        figures(tmp_path / "shared"), figures(tmp_path / "alone"), rtol=2e-4 if "credit" in keys else 1e-6
    )
    if "run.health_every" in keys:
        looks = (figures(tmp_path / name, "health.jsonl") for name in ("shared", "alone"))
        np.testing.assert_allclose(*looks, rtol=2e-3, atol=1e-5)


def config_file(folder, config):
    """A config of the two processes: a file with get_config()."""
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    lines = ("import json", "import jaxbp.config", "def get_config():")
    path = folder / "experiment.py"
    path.write_text(
        "\n".join((*lines, f"    return jaxbp.config.from_json(json.load(open({str(folder / 'config.json')!r})))"))
    )
    return path


@pytest.mark.nightly
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_goes_on_on_other_devices_and_processes(name, tmp_path):
    """Killed on 8 devices and gone on with on 1 and on 2 x 4 processes; killed on these, and gone on with on 8 and 1.

    Every row is that of the run that nobody killed, to 1e-6; of the convolutional config in float64, to 1e-9.
    """
    if name == "convolution":  # in float32 a rounded number takes another turn in the last epoch
        with wide.float64_runs():
            check_resumption(name, tmp_path, ("-m", "tests.support.wide"), 1e-9)
    else:
        check_resumption(name, tmp_path, ("-m",), 1e-6)


def check_resumption(name, tmp_path, under, tolerance):
    """Raises where a resumed run has other rows. under: the words that run a module."""
    config = on(CONFIGS[name], 4, 2, epochs=4, evaluate_every=1, checkpoint_seconds=0.0)
    one = replace(config, run=replace(config.run, mesh=MeshShape()))
    file = config_file(tmp_path, config)
    train(config, tmp_path / "whole")
    words = (str(tmp_path / "config.json"), str(tmp_path / "devices"), "evaluated", "2")
    killed = python(tmp_path, *under, "tests.support.killed", *words, devices=8)
    assert ended(killed)[0] == -signal.SIGKILL
    team = start_both(tmp_path / "processes", config=file, under=under)
    wait_for_rows(tmp_path / "processes", 2)
    team[1].kill()
    assert [status for status, _, _ in map(ended, team)] == [1, -signal.SIGKILL]
    runs = {}
    for begun, goes_on in (("devices", "one"), ("devices", "processes"), ("processes", "eight"), ("processes", "one")):
        folder = runs[begun, goes_on] = tmp_path / f"{begun}-then-{goes_on}"
        shutil.copytree(tmp_path / begun, folder)
        if goes_on == "processes":
            for status, _, error in map(ended, start_both(folder, config=file, under=under)):
                assert status == 0, error
        else:
            train(one if goes_on == "one" else config, folder)
    expected = figures(tmp_path / "whole")
    for (begun, goes_on), folder in runs.items():
        difference = np.max(np.abs(figures(folder) / expected - 1))
        print(f"{name}, from {begun} to {goes_on}: largest relative difference {difference:.1e}")
        assert difference < tolerance


def figures(folder, file="metrics.jsonl"):
    """[rows, figures] of the metrics, or of another log."""
    return np.array([jax.tree.leaves(row) for row in rows_of(folder, file)])


@pytest.mark.nightly
def test_signals_end_all_saved_and_the_run_goes_on(tmp_path):
    """SIGTERM, Ctrl-C and SIGHUP to either process, or to both: one run, gone on with after each, ends as one that was
    not disturbed."""
    words = (*WORDS, "--config.run.epochs=40")
    for status, _, error in map(ended, start_both(tmp_path / "whole", *words)):
        assert status == 0, error
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for receivers in ((0,), (1,), (0, 1)):
            rows = len(rows_of(tmp_path / "run"))
            team = start_both(tmp_path / "run", *words)
            wait_for_rows(tmp_path / "run", rows + 1)
            for process in receivers:
                team[process].send_signal(number)
            began = time.monotonic()
            (status, out, error), (other, quiet_out, quiet_error) = map(ended, team)
            assert (status, other) == (128 + number, 128 + number), error + quiet_error
            assert (error, quiet_out, quiet_error) == ("", "", "")
            assert "interrupted and saved at step" in out
            assert time.monotonic() - began < 60
    assert len(rows_of(tmp_path / "run")) < 40
    for status, _, error in map(ended, start_both(tmp_path / "run", *words)):
        assert status == 0, error
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


@pytest.mark.nightly
def test_ten_kills_end_with_the_same_parameters(tmp_path):
    """SIGKILL of either process at any time: the other ends within a minute with one line, and the run goes on.

    A run that has come to its end is followed by another, until there were ten.
    """
    words = (*WORDS, "--config.run.epochs=6", "--config.run.checkpoint_seconds=0", "--config.run.steps_per_call=3")
    began = time.monotonic()
    for status, _, error in map(ended, start_both(tmp_path / "whole", *words)):
        assert status == 0, error
    length = time.monotonic() - began
    draw = random.Random(0)
    kills = 0
    runs = []
    while kills < 10:
        runs.append(tmp_path / f"run{len(runs)}")
        while True:
            team = start_both(runs[-1], *words)
            if kills < 10:
                wait_for_end(team, draw.uniform(0.2, 0.8) * length)
            if kills == 10 or any(process.poll() is not None for process in team):
                break
            victim, survivor = (team[kills % 2], team[1 - kills % 2])
            victim.kill()
            began = time.monotonic()
            kills += 1
            status, _, error = ended(survivor)
            seconds = time.monotonic() - began
            ended(victim)
            print(
                f"process {(kills - 1) % 2} killed with {len(rows_of(runs[-1]))} rows; {seconds:.1f} s later: {error}"
            )
            assert seconds < 60
            assert status in (1, 2), (status, error)
            assert error.count("\n") == 1, error
        for status, _, error in map(ended, team):
            assert status == 0, error
    for folder in runs:
        assert weights(folder) == weights(tmp_path / "whole")
        assert rows_of(folder) == rows_of(tmp_path / "whole")


def wait_for_rows(folder, count, seconds=240):
    """Until the metrics have so many rows."""
    until = time.monotonic() + seconds
    while len(rows_of(folder)) < count:
        assert time.monotonic() < until, f"{folder} has {len(rows_of(folder))} rows"
        time.sleep(0.05)


def wait_for_end(team, seconds):
    """Until one of the processes has ended, or so long."""
    until = time.monotonic() + seconds
    while all(process.poll() is None for process in team) and time.monotonic() < until:
        time.sleep(0.05)
