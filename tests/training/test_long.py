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


def long_run(steps, seconds, tmp_path, monkeypatch):
    """(resources after each evaluation, checkpoints so far) of a run that saves each `seconds`."""
    seen = []
    saves = []

    def note(point):
        if point == "evaluated":
            seen.append((*resources(), len(saves)))

    save = loop.Session.save
    monkeypatch.setattr(loop, "reached", note)
    monkeypatch.setattr(loop.Session, "save", lambda *words, **options: saves.append(save(*words, **options)))
    run = Run(epochs=steps, batch_size=None, evaluate_every=EVERY, steps_per_call=EVERY, checkpoint_seconds=seconds)
    loop.train(replace(EXPERIMENTS["xor"], run=run), tmp_path)
    assert len(seen) == steps // EVERY
    return seen


@pytest.mark.slow
def test_files_and_threads_stay_level(tmp_path, monkeypatch, capsys):
    seen = long_run(10 * EVERY, 0, tmp_path, monkeypatch)
    assert len({(files, threads) for _, files, threads, _ in seen[2:]}) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("seconds", [0.5, 1e6])
def test_a_million_steps_stay_level(seconds, tmp_path, monkeypatch, capsys):
    """Memory is level but for what TensorStore's bindings keep of each save: some 40 kB."""
    monkeypatch.setattr(loop, "EARLY", 1e6)
    seen = long_run(1_000_000, seconds, tmp_path, monkeypatch)
    with capsys.disabled():
        for i in (0, 9, 99, 499, 999):
            memory, files, threads, saves = seen[i]
            text = f"{memory / 1e6:.1f} MB, {files} files, {threads} threads, {saves} checkpoints"
            print(f"\nstep {(i + 1) * EVERY:9,d}: {text}", end="")
    assert len({(files, threads) for _, files, threads, _ in seen[10:]}) == 1
    assert seen[-1][0] - seen[99][0] < 10e6 + 80e3 * (seen[-1][3] - seen[99][3])  # bytes
