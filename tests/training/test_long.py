"""A million steps in fast motion: a day and more of a tiny run at ten steps a second."""

import gc
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import Run
from jaxbp.training import loop

EVERY = 1000  # epochs between evaluations; an epoch of XOR is a step


def resources():
    """(resident bytes, open files, threads) of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), threading.active_count()


def long_run(steps, tmp_path, monkeypatch):
    """The resources after each evaluation of a run of so many steps; a checkpoint is written each 0.5 seconds."""
    seen = []

    def note(point):
        if point == "evaluated":
            seen.append(resources())

    monkeypatch.setattr(loop, "reached", note)
    run = Run(epochs=steps, batch_size=None, evaluate_every=EVERY, steps_per_call=EVERY, checkpoint_seconds=0.5)
    loop.train(replace(EXPERIMENTS["xor"], run=run), tmp_path)
    assert len(seen) == steps // EVERY
    return seen


@pytest.mark.slow
def test_files_and_threads_stay_level(tmp_path, monkeypatch, capsys):
    seen = long_run(20 * EVERY, tmp_path, monkeypatch)
    assert len({files for _, files, _ in seen[2:]}) == 1
    assert len({threads for _, _, threads in seen[2:]}) == 1


@pytest.mark.nightly
def test_a_million_steps_stay_level(tmp_path, monkeypatch, capsys):
    seen = long_run(1_000_000, tmp_path, monkeypatch)
    with capsys.disabled():
        for i in (0, 9, 99, 499, 999):
            memory, files, threads = seen[i]
            print(f"\nstep {(i + 1) * EVERY:9,d}: {memory / 1e6:.1f} MB, {files} files, {threads} threads", end="")
    assert len({files for _, files, _ in seen[10:]}) == 1
    assert len({threads for _, _, threads in seen[10:]}) == 1
    assert seen[-1][0] < 1.1 * seen[99][0]  # bytes
