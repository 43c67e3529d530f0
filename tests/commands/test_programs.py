"""Programs that are kept between processes: where, when not, and that they are the programs that would be compiled."""

import os
import subprocess
import sys
import time

import jax
import pytest

from jaxbp import programs
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import override
from jaxbp.programs import keep_programs, programs_folder
from tests.support.paths import ROOT
from tests.support.runs import weights

XOR = EXPERIMENTS["xor"]
WORDS = ["--config.run.epochs=60", "--config.run.steps_per_call=7", "--config.run.evaluate_every=20"]
kept_in = lambda: jax.config.values["jax_compilation_cache_dir"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of a user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_programs_are_kept_in_the_users_cache(cache):
    keep_programs(XOR)
    assert kept_in() == str(programs_folder())
    assert programs_folder().is_dir()
    assert programs_folder().parent == cache / "jaxbp/programs"
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 0


def test_without_xdg_they_are_below_the_home(cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(cache))
    assert programs_folder().parent == cache / ".cache/jaxbp/programs"


def test_one_key_turns_it_off(cache):
    keep_programs(override(XOR, ["--config.run.keep_programs=false"]))
    assert kept_in() is None
    assert not cache.exists()


def test_a_folder_of_jax_stays(cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    keep_programs(XOR)
    assert kept_in() == str(tmp_path)


@pytest.mark.parametrize("how", ["a file is there", "read-only", "no home"])
def test_a_cache_that_cannot_be_written_is_no_error(how, cache, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    if how == "a file is there":
        cache.write_text("")
    elif how == "read-only":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        monkeypatch.setattr(programs, "programs_folder", no_home)
    keep_programs(XOR)
    assert kept_in() is None


def test_another_processor_has_another_folder(monkeypatch):
    here = programs_folder()
    monkeypatch.setattr(programs.platform, "machine", lambda: "other")
    assert programs_folder() != here


def test_what_nobody_uses_is_deleted(cache):
    keep_programs(XOR)
    old, new = programs_folder() / "jit_old-cache", programs_folder() / "jit_new-cache"
    for program, days in ((old, programs.DAYS + 1), (new, programs.DAYS - 1)):
        program.write_bytes(b"")
        then = time.time() - days * 24 * 3600
        os.utime(program, (then, then))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_programs(XOR)
    assert new.exists()
    assert not old.exists()


# --- Programs from the cache are the programs ------------------------------------------------------------------------

TRAIN = """
import sys
import jax
from jaxbp.commands import train
from jaxbp.training import loop

make = loop.make_program

def watched(*parts):
    program = make(*parts)

    def run(state, *rest):
        after = program(state, *rest)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state)), "not donated"
        return after

    return run

loop.make_program = watched
sys.exit(train.main(sys.argv[1:]))
"""


def start(folder, *words):
    """A process that trains XOR in the folder, and fails where a state is not donated."""
    command = [sys.executable, "-c", TRAIN, "xor", f"--workdir={folder}", *WORDS, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trace(process, folder):
    """The metrics and weights that the process leaves, and what it says on stderr."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return (folder / "metrics.jsonl").read_bytes(), weights(folder), err


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The trace of a run whose programs were all compiled."""
    folder = tmp_path_factory.mktemp("fresh")
    return trace(start(folder, "--config.run.keep_programs=False"), folder)


def entries():
    return {path.name: path.stat().st_mtime_ns for path in programs_folder().glob("*-cache")}


@pytest.mark.slow
def test_kept_programs_give_the_same_bits(expected, cache, tmp_path):
    """Also of two processes that begin at once; the third compiles nothing."""
    both = [(start(tmp_path / name), tmp_path / name) for name in "ab"]
    assert [trace(*each) for each in both] == [expected] * 2
    kept = entries()
    assert any(name.startswith("jit_program") for name in kept)
    assert trace(start(tmp_path / "c"), tmp_path / "c") == expected
    assert entries() == kept


@pytest.mark.nightly
def test_damaged_programs_are_compiled_again(expected, cache, tmp_path):
    trace(start(tmp_path / "a"), tmp_path / "a")
    for path in programs_folder().glob("*-cache"):
        path.write_bytes(path.read_bytes()[:-9])
    assert trace(start(tmp_path / "b"), tmp_path / "b")[:2] == expected[:2]
