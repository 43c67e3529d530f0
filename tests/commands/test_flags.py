"""Every flag of every command, as its parser lists them, with values that it cannot have: one line, exit status 2."""

import importlib
import re

import pytest

from jaxbp import config as configuration
from jaxbp.commands.__main__ import COMMANDS, main
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import kinds_of
from jaxbp.errors import InputError
from jaxbp.typed import field_types, fits, read
from tests.support.paths import ROOT

BAD = (
    *("", "abc", "-1", "0.5", "nan", "1e400", "9" * 5000, "1_0", "[", "a\nb"),
    *("\0", "\ud800", "~nosuchuser/x", "\x1b[2J"),
)
FLAGS = [
    (command, flag, kind)
    for command in COMMANDS
    for flag, kind in field_types(importlib.import_module(f"jaxbp.commands.{command}").Options).items()
]


def line_of(capsys, *words: str) -> str:
    """The one line that the command of these words ends in, with exit status 2."""
    capsys.readouterr()
    assert main(list(words)) == 2, words
    out, err = capsys.readouterr()
    assert out == ""
    assert err.isprintable() or err[:-1].isprintable(), err
    return err


@pytest.mark.parametrize(("command", "flag", "kind"), FLAGS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_flag_refuses_what_it_cannot_be(command, flag, kind, capsys, tmp_path, monkeypatch):
    """A value that the flag's kind allows is refused too: there is no such run, file or suite, or no such key."""
    monkeypatch.chdir(tmp_path)
    types = field_types(importlib.import_module(f"jaxbp.commands.{command}").Options)
    beside = {"run": "nowhere", "input": "nowhere.csv", "output": "out.csv"}
    others = [f"--{name}={beside[name]}" for name in types.keys() & beside.keys() - {flag}]
    if "config" in types:
        others.append("--config.run.epochs=none")
    if command == "bench":
        others.append("--suite=nowhere")
    if command == "accelerator":
        others.append("--json=nowhere/x.json" if flag == "minutes" else "--minutes=none")
    for value in BAD:
        if command == "bench" and flag == "suite":
            others = []
        line = line_of(capsys, command, f"--{flag}={value}", *others)
        if not fits(read(value, kind), kind):
            assert f"error: --{flag} must be " in line
    if kind is not bool:
        assert f"error: --{flag} needs a value: --{flag}=VALUE" in line_of(capsys, command, f"--{flag}", "--x=1")
    assert not any(tmp_path.iterdir())


def test_a_flag_of_the_check_of_code_refuses_what_it_cannot_be(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["check", "--function", "x", "--help"])
    flags = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE)) - {"--github", "--function"}
    assert {"--loss", "--example", "--layer", "--shape", "--accuracy", "--seed", "--json", "--level"} <= flags
    for flag in sorted(flags):
        for value in BAD:
            line_of(capsys, "check", "--function=nowhere.py:f", "--example=nowhere.py:f", f"{flag}={value}")
    for value in BAD:
        line_of(capsys, "check", f"--function={value}", "--example=nowhere.py:f")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * 5000, "/dev/null", "/proc/nowhere"], ids=range(5))
def test_a_run_folder_that_cannot_be(value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("xor", "--config.run.epochs=1", "--config.run.evaluate_every=1")
    assert "error: " in line_of(capsys, "train", *words, f"--workdir={value}")


def options():
    """Class and field -> (config, option, kind), of every key of the experiments and of every choice of a kind."""
    every = {}
    for config in [*EXPERIMENTS.values(), *(configuration.load(file) for file in sorted(ROOT.glob("configs/*.py")))]:
        for option, owner, name in configuration._Draft.of(config).options():
            every.setdefault((owner.kind.__name__, name), (config, option, owner.annotation(name)))
    return every


@pytest.mark.slow
def test_a_key_of_a_config_refuses_what_it_cannot_be():
    for config, option, kind in options().values():
        refused = [value for value in BAD if kinds_of(kind) or not fits(read(value, kind), kind)]
        for value in refused[:3]:
            with pytest.raises(InputError, match=re.escape(option)) as caught:
                configuration.override(config, [f"{option}={value}"])
            assert str(caught.value).isprintable()


def test_help_of_a_config_that_is_none(capsys):
    for command in ("train", "trace", "check"):
        assert "nope.py" in line_of(capsys, command, "--help", "--config=nope.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--config.model.hidden=1000000000"], "the model has 300,000,000,040 bytes of weights"),
        ([f"--config.model.hidden={10**30}"], "bytes of weights and as many of gradients, and there are"),
        ([f"--config.run.epochs={10**30}"], "and a run has fewer than 2,147,483,648"),
        ([f"--config.run.{key}=40000000" for key in ("epochs", "evaluate_every", "steps_per_call")], "order of the ex"),
        ([f"--config.run.batch_size={10**30}"], f"run.batch_size is {10**30}, but the training part has"),
    ],
)
def test_a_run_that_no_memory_holds_is_refused_before_it_begins(words, text, capsys, tmp_path):
    assert text in line_of(capsys, "train", "digits_mlp", f"--workdir={tmp_path / 'run'}", *words)
    assert not (tmp_path / "run").exists()
