"""What the programs of bench refuse before they compute anything: one line, and nothing is left behind."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from bench import choices, other_nets, small_tasks
from jaxbp.errors import InputError

PICTURES = ("costs", "depth", "local_minima", "memory", "plateau")


def computes(*arguments):
    pytest.fail("it computes")


@pytest.mark.parametrize("program", PICTURES)
@pytest.mark.parametrize("name", ["x.foo", "x", "nowhere/x.png"])
def test_a_picture_must_have_a_format(program, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--out must be .* and ends in .png or another format of matplotlib"):
        importlib.import_module(f"bench.{program}").main([f"--out={name}"])


@pytest.mark.parametrize("option", ["--cells=foo", "--cells=", "--lags=", "--lags=1"])
def test_memory_refuses_what_cannot_race(option, tmp_path, monkeypatch):
    memory = importlib.import_module("bench.memory")
    monkeypatch.setattr(memory, "by_step", computes)
    with pytest.raises(InputError, match=r"must be .* \(at least one\)"):
        memory.main([option, f"--workdir={tmp_path / 'runs'}"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "work", "first"), [(choices, "compared", "depth"), (small_tasks, "row", "Backpropagation")]
)
def test_all_names_are_looked_up_first(program, work, first, monkeypatch):
    monkeypatch.setattr(program, work, computes)
    with pytest.raises(InputError, match="'nowhere'"):
        program.main([f"--only={first},nowhere"])
    for nothing in ("--only=", "--only=,"):
        with pytest.raises(InputError, match=r"--only must be texts separated by commas \(at least one\)"):
            program.main([nothing])


def test_a_comparison_whose_file_is_not_named_is_refused_before_the_first_runs(monkeypatch):
    monkeypatch.setattr(choices, "compared", computes)
    with pytest.raises(InputError, match="the comparison mnist_layers needs --mnist=PATH"):
        choices.main(["--only=depth,mnist_layers"])


def test_cuts_need_a_run_with_classes(monkeypatch):
    part = SimpleNamespace(x=np.zeros((1, 2)), y=np.zeros((1, 1)))
    config = SimpleNamespace(load_data=lambda: SimpleNamespace(train=part, classes=None))
    monkeypatch.setattr(other_nets.jaxbp, "load", lambda workdir: SimpleNamespace(config=config))
    with pytest.raises(InputError, match="--task=cuts needs a run of data with classes, and that in r has none"):
        other_nets.main(["--task=cuts", "--workdir=r"])
