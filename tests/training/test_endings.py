"""How runs end that something ends from outside, or from within: saved, in one line, and with nothing bad kept."""

import io
import os
import shutil
import signal
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxbp
from jaxbp.errors import InputError
from jaxbp.machine import machine
from jaxbp.training import checkpoint, loop
from jaxbp.training.loop import EARLY, YOUNG, NotFinite
from jaxbp.training.run import load
from jaxbp.training.signals import signals
from jaxbp.training.step import Feed, initial_state, make_program, make_step
from tests.support.faults import Killed, Warm, planned
from tests.training.test_resume import config

pytestmark = pytest.mark.slow
ELSEWHERE = "it was moved, replaced or deleted, or its lock was; nothing more is written under its name"


@pytest.fixture(scope="module")
def warm():
    with pytest.MonkeyPatch.context() as patch:
        yield Warm(config(epochs=2, evaluate_every=1, batch_size=24), patch)


@pytest.fixture(scope="module")
def quiet(warm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "quiet"
    warm.train(folder)
    return warm.bytes(folder)


# --- Output ----------------------------------------------------------------------------------------------------------


class Closed(io.StringIO):
    """An output that takes the first lines, and no more."""

    def __init__(self, lines, number):
        super().__init__()
        self.left = lines
        self.number = number

    def write(self, text):
        self.left -= text.count("\n")
        if self.left < 0:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


@pytest.mark.parametrize("number", [32, 28], ids=["nobody reads", "full"])
def test_an_output_that_fails_ends_a_run_saved(number, warm, quiet, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Closed(1, number))
    with pytest.raises(OSError, match=r"saved at step 3; the same command resumes the run") as error:
        warm.train(tmp_path / "run")
    assert (error.value.errno, error.value.filename) == (number, "standard output")
    monkeypatch.undo()
    assert (tmp_path / "run/checkpoints/0000000003").is_dir()


def test_an_output_that_fails_leaves_the_same_bytes(warm, quiet, tmp_path, capsys):
    for lines in (1, 3, 100):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", Closed(lines, 32))
            try:
                warm.train(tmp_path / "run")
            except OSError:
                continue
    assert warm.bytes(tmp_path / "run") == quiet


# --- Signals and clocks ----------------------------------------------------------------------------------------------


def test_a_signal_that_is_ignored_stays_ignored():
    """nohup ignores SIGHUP, and a shell Ctrl-C for what it runs in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals() as caught:
            os.kill(os.getpid(), signal.SIGHUP)
        assert caught == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_the_process_as_usual():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals() as caught:
            os.kill(os.getpid(), signal.SIGINT)
            assert caught == [signal.SIGINT]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_clock_that_is_set_back_changes_nothing(warm, quiet, tmp_path, monkeypatch, capsys):
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    warm.train(tmp_path)
    monkeypatch.undo()
    assert warm.bytes(tmp_path) == quiet


def test_checkpoints_come_early_in_the_first_minute(warm, monkeypatch):
    rare = replace(warm.config, run=replace(warm.config.run, checkpoint_seconds=300.0))
    session = replace(warm.session, config=rare, begun=0.0, saved=0.0)
    due = []
    for second in range(200):
        monkeypatch.setattr(time, "monotonic", lambda now=second: float(now))
        if session.due([])[0]:
            due.append(second)
            session.saved = float(second)
    assert due == [10, 20, 30, 40, 50]
    assert (EARLY, YOUNG) == (10, 60)


@pytest.mark.parametrize(
    ("at", "line"),
    [
        (30, "begun again: an earlier start ended before its first checkpoint"),
        (100, "resumed at step 3 of 6"),
        (None, "resumed at step 6 of 6"),
    ],
)
def test_a_restart_says_what_was_lost(at, line, warm, tmp_path, capsys, monkeypatch):
    seconds = 0.01  # between checkpoints
    own = replace(warm.config, run=replace(warm.config.run, checkpoint_seconds=seconds))
    monkeypatch.setattr(warm, "config", own)
    monkeypatch.setattr(warm, "session", replace(warm.session, config=own))
    monkeypatch.setattr(loop.Session, "due", lambda session: True)
    if at is None:
        warm.train(tmp_path)
    else:
        with planned(tmp_path, "kill", at), pytest.raises(Killed):
            warm.train(tmp_path)
    capsys.readouterr()
    warm.train(tmp_path)
    (said,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith(("begun", "resumed"))]
    when = "before it" if at == 30 else "after it"
    lost = f"; what was done {when}, up to 0.01 seconds of work, is done again"
    assert said == line + (lost if at else "")


# --- Numbers ---------------------------------------------------------------------------------------------------------


def test_what_an_optimizer_keeps_is_looked_at_after_each_call():
    """Adam's second moment overflows at a gradient of 1e25, which is finite: the weight would never move again."""
    model = jaxbp.Identity()
    optimizer = optax.adam(0.1)
    gradient = lambda params, batch, ctx: jaxbp.backprop.Result(jnp.float32(0), {"w": batch["x"][0]}, {}, None)
    state = replace(initial_state(model, optimizer, jax.ShapeDtypeStruct((1, 2), jnp.float32), 0), params={})
    params = {"w": jnp.zeros(2)}
    state = replace(state, params=params, optimizer=optimizer.init(params))
    program = make_program(make_step(gradient, optimizer))
    feed = Feed(jnp.array([[1.0, 1e25]]), jnp.zeros(1), jnp.zeros((2, 1), jnp.int32), jnp.ones((2, 1)))
    stopped, _ = program(state, feed, jnp.int32(0), jnp.int32(1))
    assert jnp.isfinite(stopped.params["w"]).all()
    assert not stopped.finite


def test_a_metric_that_is_not_finite_is_not_kept(warm, tmp_path, monkeypatch):
    session = replace(warm.session, evaluate=lambda *_: {"loss": float("nan"), "accuracy": 0.5})
    monkeypatch.setattr(warm, "session", session)
    with pytest.raises(NotFinite, match=r"step 3: validation_loss is not finite, and no row is kept: lower optimizer"):
        warm.train(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


# --- Settings --------------------------------------------------------------------------------------------------------


def test_another_setting_is_a_line(warm, tmp_path, monkeypatch, capsys):
    warm.train(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"), jax.threefry_partitionable(False):
        settings = machine()["settings"]
        warm.train(tmp_path)
    line = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("not bit-exact"))
    for name in ("XLA_FLAGS", "jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable"):
        assert f"settings.{name} was " in line
        assert f" and is {settings[name]}" in line


def test_random_keys_of_another_kind_are_refused_where_they_matter(warm, quiet, tmp_path, capsys):
    warm.train(tmp_path)
    with jax.default_prng_impl("rbg"):
        with pytest.raises(InputError, match=r"the run's random keys are of the kind threefry2x32, and this .* rbg"):
            warm.train(tmp_path)
        loaded = load(tmp_path)
    assert all(map(jnp.array_equal, jax.tree.leaves(loaded.params), jax.tree.leaves(load(tmp_path).params)))


# --- Folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr[0.1]*?", "a\\b\n[", "x" * 255, os.fsdecode(b"\xff"), " ~$HOME%s"], ids=ascii)
def test_folders_of_any_name(name, warm, quiet, tmp_path, capsys):
    with planned(tmp_path / name, "kill", 120), pytest.raises(Killed):
        warm.train(tmp_path / name)
    warm.train(tmp_path / name)
    assert warm.bytes(tmp_path / name) == quiet


def test_a_folder_that_vanishes_is_one_line_and_the_run_begins_again(warm, quiet, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(loop, "reached", lambda point: shutil.rmtree(folder, ignore_errors=True))
    with pytest.raises(OSError, match=ELSEWHERE) as error:
        warm.train(folder)
    assert error.value.filename == str(folder)
    monkeypatch.setattr(loop, "reached", lambda point: None)
    warm.train(folder)
    assert warm.bytes(folder) == quiet


NIGHTLY = [pytest.param(point, marks=pytest.mark.nightly) for point in ("begun", "arrays", "renamed", "evaluated")]


@pytest.mark.parametrize("point", ["manifest", "call", *NIGHTLY])
def test_another_folder_in_the_place_of_the_run_gets_nothing(point, warm, quiet, tmp_path, monkeypatch, capsys):
    """It is of the same run, even: a copy. The one that was moved goes on."""
    folder = tmp_path / "run"
    moved = tmp_path / "moved"
    contents = {}

    def swap(here):
        if here == point and not moved.exists() and len(list(folder.glob("checkpoints/0*"))) > 1:
            folder.rename(moved)
            shutil.copytree(moved, folder)
            contents.update({path: path.read_bytes() for path in folder.rglob("*") if path.is_file()})

    monkeypatch.setattr(loop, "reached", swap)
    monkeypatch.setattr(checkpoint, "reached", swap)
    with pytest.raises(OSError, match=ELSEWHERE) as error:
        warm.train(folder)
    assert error.value.filename == str(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents != {}
    warm.train(moved)
    assert warm.bytes(moved) == quiet


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run", "http://host/run"])
def test_an_address_is_refused_before_anything_compiles(address, warm, monkeypatch):
    monkeypatch.setattr(loop, "new_session", None)
    with pytest.raises(InputError, match="is an address, and runs live in folders"):
        warm.train(address)
