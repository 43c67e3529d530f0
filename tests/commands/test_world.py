"""Commands in a world that is full, closed, signalled or out of memory: one line, the right status, nothing half."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxbp.commands import train
from jaxbp.commands.__main__ import main
from jaxbp.commands.streams import show_unraisable
from tests.support.faults import planned
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),  # of orbax's threads, too
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
XOR = ["train", "xor", "--config.run.evaluate_every=100", "--config.run.keep_programs=False"]


def told(capsys, status, *words):
    """The one line of a command that ends with this status, without its 'error: '."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# --- What ends a command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            MemoryError("Unable to allocate 3 TiB"),
            2,
            "out of memory: lower run.batch_size, raise run.micro_batches, or",
        ),
        (RuntimeError("INTERNAL: CpuCallback error: ...\nInputError: features is 3"), 2, "features is 3"),
        (OSError(28, "No space left on device"), 2, "standard output: No space left on device"),
        (OSError(2, "No such file", "a\nb"), 2, "a b: No such file"),
        (OSError(2, "No such file", b"\xff"), 2, "\\udcff: No such file"),
    ],
    ids=repr,
)
def test_whatever_ends_a_command_is_one_line(error, status, line, capsys, monkeypatch):
    def fail(words):
        raise error

    monkeypatch.setattr(train, "main", fail)
    assert told(capsys, status, "train").startswith(line)


def test_a_device_without_memory_names_what_to_lower(capsys, monkeypatch):
    monkeypatch.setattr(train, "main", lambda words: jnp.zeros(2**45).block_until_ready())
    line = told(capsys, 2, "train")
    assert line.startswith("out of memory: lower run.batch_size, raise run.micro_batches, or make the model smaller (")
    assert "RESOURCE_EXHAUSTED" in line


def test_another_error_of_the_device_keeps_its_traceback(monkeypatch):
    def fail(words):
        raise RuntimeError("INTERNAL: odd")

    monkeypatch.setattr(train, "main", fail)
    with pytest.raises(RuntimeError, match="odd"):
        main(["train"])


def test_ctrl_c_while_the_command_still_imports_is_quiet():
    code = """if True:
        import os, signal, sys
        import jaxbp_command

        class Interrupt:
            def find_spec(name, path, target=None):
                if name == "jax":
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interrupt)
        sys.exit(jaxbp_command.main())
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_errors_that_nobody_can_read_change_no_status(monkeypatch):
    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        flush = write

    monkeypatch.setattr(sys, "stderr", Full())
    assert main(["tran"]) == 2


def test_python_tells_other_errors_of_threads_as_ever(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
    for text in ("Event loop is closed", "odd"):
        show_unraisable(type("Unraisable", (), {"exc_value": RuntimeError(text)}))
    assert [str(unraisable.exc_value) for unraisable in shown] == ["odd"]


# --- Full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a table of classes."""
    folder = tmp_path_factory.mktemp("world") / "run"
    assert main(["train", str(ROOT / "configs/iris.py"), f"--workdir={folder}", "--config.run.epochs=2"]) == 0
    return folder


@pytest.fixture(scope="module")
def commands(run, tmp_path_factory):
    """{name: words} of the commands that write, but for training; {FILES} is where their files go."""
    rows = tmp_path_factory.mktemp("rows") / "rows.csv"
    rows.write_text("sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)\n5.1,3.5,1.4,0.2\n")
    return {
        "evaluate": (run, ["evaluate", run]),
        "trace": (None, ["trace", "--json={FILES}/a.json", "--npz={FILES}/a.npz"]),
        "check": (None, ["check", "xor", "--json={FILES}/check.json"]),
        "predict": (None, ["predict", run, f"--input={rows}", "--output={FILES}/" + "y" * 251 + ".csv"]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", pytest.param("once", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", ["evaluate", "predict", "trace", pytest.param("check", marks=pytest.mark.nightly)])
def test_a_full_disk_at_every_write_of_a_command(name, kind, commands, tmp_path, capsys):
    folder, words = commands[name]
    folder = folder or tmp_path
    words = [str(word).replace("{FILES}", str(tmp_path)) for word in words]
    with planned(folder) as plan:
        assert main(words) == 0
    names = {path.name for path in folder.iterdir()}
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    changes = len(plan.events)
    assert changes >= 2
    for at in range(1, changes + 1):
        with planned(folder, kind, at) as plan:
            if plan.at == changes and kind == "full":
                break  # a rename needs no space
            assert str(folder) in told(capsys, 2, *words)
        assert {path.name for path in folder.iterdir()} <= names  # nothing half-written is left
        assert {path: path.read_bytes() for path in before} == before
    assert main(words) == 0


@pytest.mark.slow
@pytest.mark.parametrize("bytes_allowed", [3000, *(pytest.param(size, marks=pytest.mark.nightly) for size in (0, 700))])
def test_a_limit_on_files_is_one_line_and_the_run_goes_on(bytes_allowed, tmp_path):
    """The system itself refuses to write beyond the limit: config, metrics or checkpoint, TensorStore's writes too."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_allowed}, -1))"
    words = [*XOR, "--config.run.epochs=200", f"--workdir={tmp_path / 'run'}"]
    done = process(words, code)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run'}")
    assert line.endswith("File too large")
    assert main(words) == 0


# --- Streams, locales and signals ------------------------------------------------------------------------------------


def process(words, code="", redirect="", **environment):
    """The command in a process of its own, after some code, by a shell."""
    program = f"import sys; {code}\nfrom jaxbp.commands.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "bash", sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.slow
def test_every_stream_closed_and_an_ascii_locale(tmp_path):
    """What libraries write to the numbers of closed streams does not go into the run's files."""
    folder = tmp_path / "lärm"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    words = [*XOR, "--config.run.epochs=100", f"--workdir={folder}"]
    done = process(words, "", "<&- >&- 2>&-", **ascii_only)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [json.loads(row)["epoch"] for row in (folder / "metrics.jsonl").read_text().splitlines()] == [100]
    again = process(words, "", "", **ascii_only)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"run folder {tmp_path}/l\\udcc3\\udca4rm" in again.stdout
    assert "resumed at step 100 of 100\n" in again.stdout


@pytest.mark.slow
def test_stopped_continued_and_hung_up(tmp_path):
    """SIGSTOP and SIGCONT in the middle, then a terminal that closes: SIGHUP, with an output that nobody reads."""
    words = [*XOR[:2], "--config.run.evaluate_every=50", "--config.run.epochs=1000000", f"--workdir={tmp_path}"]
    running = subprocess.Popen(
        [sys.executable, "-m", "jaxbp", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # it may be ignored here, as under nohup
    )
    while "epoch" not in running.stdout.readline():
        time.sleep(0.01)
    running.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    running.send_signal(signal.SIGHUP)
    running.send_signal(signal.SIGCONT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGHUP
    assert "interrupted and saved at step" in out
    assert err == ""
    assert len(list((tmp_path / "checkpoints").iterdir())) >= 1


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_of_every_size(tmp_path):
    """A run on a real file system that is full at some point; then it is made larger, and the same command goes on."""
    small = tmp_path / "disk"
    small.mkdir()
    words = [*XOR, "--config.run.epochs=300", "--config.run.checkpoint_seconds=0", f"--workdir={small}/run"]
    quiet = [*words[:-1], f"--workdir={tmp_path}/quiet"]
    assert main(quiet) == 0
    ended = []
    for kilobytes in range(8, 400, 24):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", small], check=True)
        try:
            done = process(words)
            ended.append(done.returncode)
            if done.returncode:
                assert done.stderr.startswith(f"error: {small}/run"), done.stderr
                assert done.stderr.endswith("No space left on device\n"), done.stderr
                assert len(done.stderr.splitlines()) == 1, done.stderr
            subprocess.run(["mount", "-o", "remount,size=100m", small], check=True)
            assert process(words).returncode == 0
            metrics = Path(small, "run", "metrics.jsonl")
            assert metrics.read_bytes() == (tmp_path / "quiet/metrics.jsonl").read_bytes()
        finally:
            subprocess.run(["umount", small], check=True)
    assert set(ended) == {0, 2}
