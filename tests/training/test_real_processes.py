"""Training commands as real processes: at once in one folder, and killed by SIGKILL at any instant."""

import random
import shutil
import signal
import socket

import pytest

from tests.support.faults import Warm
from tests.support.forks import Forks
from tests.training.test_resume import config

SETTINGS = {"epochs": 2, "evaluate_every": 1, "batch_size": 24}
CHANGES = 200  # of the disk below the folder of a whole run, about


@pytest.fixture(scope="module")
def warm():
    with pytest.MonkeyPatch.context() as patch:
        yield Warm(config(**SETTINGS), patch)


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    with Forks(tmp_path_factory.mktemp("programs")) as forks:
        yield forks


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The config as a user writes it."""
    path = tmp_path_factory.mktemp("config") / "config.py"
    lines = "from tests.training import test_resume", f"get_config = lambda: test_resume.config(**{SETTINGS})"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def quiet(warm, forks, file, tmp_path_factory):
    """(every bit that a run keeps that nothing disturbs, the number of its events)."""
    folder = tmp_path_factory.mktemp("runs") / "quiet"
    (ended,) = forks.run(command(file, folder))
    assert ended["status"] == 0, ended
    return warm.bytes(folder), ended["events"]


def command(file, folder, **kill):
    return {"words": ["train", str(file), f"--workdir={folder}"], "folder": str(folder)} | kill


def check_rushes(forks, warm, quiet, file, folder, count, times):
    """So many commands on one folder at once: one trains, to the bytes of the quiet run, and the others say whose the
    folder is."""
    for i in range(times):
        run = folder / str(i)
        results = forks.run(*[command(file, run)] * count, hold=True)
        assert sorted(result["status"] for result in results) == [0, *[2] * (count - 1)], results
        (trained,) = [result for result in results if result["status"] == 0]
        line = f"error: {run} is in use: process {trained['process']} on {socket.gethostname()}, since 20"
        for result in results:
            assert result is trained or (result["err"].startswith(line) and result["err"].count("\n") == 1), result
        assert warm.bytes(run) == quiet[0]
        assert not (run / ".lock").exists()


@pytest.mark.slow
def test_of_several_commands_one_trains(forks, warm, quiet, file, tmp_path):
    check_rushes(forks, warm, quiet, file, tmp_path, 4, 1)


@pytest.mark.nightly
@pytest.mark.parametrize("count", [2, 4, 8])
def test_of_several_commands_one_trains_fifty_times(count, forks, warm, quiet, file, tmp_path):
    check_rushes(forks, warm, quiet, file, tmp_path, count, 50)


def killed(forks, warm, quiet, file, folder, chance, number):
    """Runs that ended between so many kills; asserts that each has the bytes of the quiet run.

    Half of the kills are at a random change of the disk, half at a random one of all of Python's events. Each process
    goes on with what the one before left.
    """
    right, events = quiet
    kills = ended = 0
    while kills < number or folder.exists():
        kinds = {"change": chance.randint(1, CHANGES)}, {"instant": chance.randint(1, events)}
        kill = chance.choice(kinds) if kills < number else {}
        (result,) = forks.run(command(file, folder, **kill))
        if result["status"] == -signal.SIGKILL:
            kills += 1
            continue
        assert result["status"] == 0, result
        assert warm.bytes(folder) == right, kill
        shutil.rmtree(folder)
        ended += 1
    return ended


@pytest.mark.slow
def test_some_kills_leave_the_same_bytes(forks, warm, quiet, file, tmp_path):
    assert killed(forks, warm, quiet, file, tmp_path / "run", random.Random(1), 3) >= 1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_kills_leave_the_same_bytes(seed, forks, warm, quiet, file, tmp_path, capsys):
    """Ten of them are a thousand."""
    ended = killed(forks, warm, quiet, file, tmp_path / "run", random.Random(seed), 100)
    with capsys.disabled():
        print(f"\n100 kills by SIGKILL, {ended} runs that ended between them, 0 bytes differ")
