"""One process trains in a folder; readers see whole states meanwhile."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import jaxbp
from jaxbp.training import lock
from jaxbp.training.checkpoint import Checkpoints
from jaxbp.training.lock import alone, locked, reading
from jaxbp.training.loop import train
from jaxbp.training.run import load
from tests.support.paths import ROOT
from tests.support.runs import small, weights


@pytest.mark.slow
def test_a_lock_dies_with_its_process_and_its_folder_goes_if_it_is_empty(tmp_path):
    folder = tmp_path / "a/b"
    with pytest.raises(ZeroDivisionError), locked(folder):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()
    code = "import os; from pathlib import Path; from jaxbp.training.lock import locked\n"
    code += f"with locked(Path({str(folder)!r})): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert json.loads((folder / ".lock").read_text())["host"] == socket.gethostname()
    with locked(folder):
        (folder / "mine").write_text("")
    assert [path.name for path in folder.iterdir()] == ["mine"]


def lock_again(folder):
    """The refusal of who cannot lock the folder."""
    with pytest.raises(jaxbp.InputError) as refused, locked(folder):
        pass
    return str(refused.value)


def test_another_thread_is_refused_too_and_a_file_is_no_folder(tmp_path):
    with locked(tmp_path / "a"):
        line = lock_again(tmp_path / "a")
    who = rf"in use: process {os.getpid()} on .*, since 20..-..-.. ..:..:..[+-]..:.., trains there; wait"
    assert re.search(who, line)
    (tmp_path / "file").write_text("")
    assert lock_again(tmp_path / "file/below").endswith("file/below cannot be the folder of a run: Not a directory")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(descriptor, kind):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with pytest.raises(jaxbp.InputError, match="its file system has no locks"), locked(tmp_path):
        pass


def test_nothing_is_deleted_while_somebody_reads(tmp_path):
    tree = {"w": jaxbp.core.jnp.arange(3.0)}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, tree, {})
    with reading(tmp_path):
        checkpoints.save(2, tree, {})
        assert [path.name for path in checkpoints.paths()] == ["0000000002", "0000000001"]
        with alone(tmp_path, 0) as free:
            assert not free
    checkpoints.save(3, tree, {})
    assert [path.name for path in checkpoints.paths()] == ["0000000003"]


@pytest.mark.slow
def test_a_run_is_read_while_it_trains(tmp_path):
    """A checkpoint after every call, two kept, and a reader that never meets a half one."""
    config = small(epochs=8, checkpoint_seconds=0.0, steps_per_call=2)
    training = threading.Thread(target=train, args=(config, tmp_path))
    training.start()
    while not list(tmp_path.glob("checkpoints/0*")):
        time.sleep(0.01)
    read = [load(tmp_path).params for _ in range(20) if training.is_alive()]
    training.join()
    assert len(read) > 1
    assert len(load(tmp_path).params) == len(read[0])


@pytest.mark.nightly
def test_the_second_command_ends_at_once_and_the_first_keeps_its_bytes(tmp_path):
    """Real processes: the first is stopped in the middle, the second is refused, and the first goes on to its end."""
    words = [sys.executable, str(ROOT / "scripts/train.py"), "configs/iris.py", f"--workdir={tmp_path}/run"]
    words += ["--config.run.epochs=100", "--config.run.evaluate_every=1"]
    running = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not running.stdout.readline().startswith("epoch"):
        pass
    running.send_signal(signal.SIGSTOP)
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    running.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: {tmp_path}/run is in use: process {running.pid} on ")
    assert second.stderr.count("\n") == 1
    running.communicate()
    assert running.returncode == 0
    assert len((tmp_path / "run/metrics.jsonl").read_bytes().splitlines()) == 100
    words[3] = f"--workdir={tmp_path}/quiet"
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "quiet")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (tmp_path / "quiet/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("content", ["theirs", "[]", '[["process"]]', "[" * 900, "x" * 2000])
def test_a_lock_of_others_is_left_alone(content, tmp_path):
    file = tmp_path / ".lock"
    file.write_text(content)
    with pytest.raises(jaxbp.InputError, match="is no lock of jaxbp's"), locked(tmp_path):
        pass
    assert file.read_text() == content
    file.rename(tmp_path / "theirs")
    file.symlink_to("theirs")
    with pytest.raises(jaxbp.InputError, match="is no lock of jaxbp's"), locked(tmp_path):
        pass
    assert (tmp_path / "theirs").read_text() == content


def test_the_lock_of_a_folder_that_was_moved_is_not_the_one_in_its_place(tmp_path):
    run = tmp_path / "run"
    with locked(run):
        run.rename(tmp_path / "moved")
        run.mkdir()
        (run / ".lock").write_text("")  # of whoever trains there now
    assert (run / ".lock").exists()
