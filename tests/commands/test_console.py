"""The command `jaxbp` and its scripts: what they list, how they read words, and one line for whatever is wrong."""

import importlib
import os
import runpy
import subprocess
import sys
import tomllib
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

import jaxbp
import jaxbp_command
from jaxbp import config as configuration
from jaxbp.commands import bench, cli, predict, replay, sample, train
from jaxbp.commands import check as check_command
from jaxbp.commands.__main__ import COMMANDS, main
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import Run
from jaxbp.errors import InputError
from jaxbp.training.folder import RunFolder
from jaxbp.typed import field_types
from tests.support.paths import ROOT

SCRIPTS = {"check": "check_gradients", "tokenize": "tokenize_text"}  # those that have another name than their command
EVERY = pytest.mark.parametrize("name", [name for name in COMMANDS if name != "predict"])


def refused(capsys, *words):
    """The one line, without its 'error: ', that the command of these words ends in."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def shown_help(capsys, *words):
    """What --help prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


# --- Commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]], ids=str)
def test_the_commands_are_listed_in_a_line_each(words, capsys):
    assert main(words) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert {line[0]: line[1] for line in lines if line and line[0] in COMMANDS} == COMMANDS


def test_an_unknown_command_is_told_the_nearest(capsys):
    assert refused(capsys, "tran").startswith("unknown command 'tran'; did you mean 'train'?")
    assert all(name in refused(capsys, "--verbosity=1") for name in COMMANDS)


@EVERY
def test_help_shows_every_option(name, capsys):
    options = importlib.import_module(f"jaxbp.commands.{name}").Options
    text = " ".join(shown_help(capsys, name).split())
    assert f"jaxbp {name}" in text
    for field in fields(options):
        shown_default = field.default if str(field.default).isprintable() else repr(field.default)
        assert f"--{field.name} " in text
        assert ("(required)" if field.default is MISSING else f"(default: {shown_default})") in text
    assert ("--config.run.epochs" in text) == ("config" in field_types(options))


def test_help_is_that_of_the_config_that_is_asked_for(capsys):
    text = " ".join(shown_help(capsys, "train", "xor", "--config.optimizer=SGD", "--config.run.epochs", "7").split())
    assert "--config.optimizer the optimizer (default: SGD)" in text
    assert "--config.optimizer.momentum " in text
    assert "(default: 7)" in text
    assert "unknown config file" in refused(capsys, "train", "--help", f"--config={ROOT}/configs/nope.py")


@EVERY
def test_a_script_is_its_command(name, capsys, monkeypatch):
    script = ROOT / "scripts" / f"{SCRIPTS.get(name, name)}.py"
    expected = shown_help(capsys, name)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == expected


def test_no_other_scripts():
    assert {path.stem for path in (ROOT / "scripts").glob("*.py")} == {SCRIPTS.get(name, name) for name in COMMANDS}


PROGRAMS = [
    path for room in ("bench", "proofs") for path in (ROOT / room).rglob("*.py") if "__main__" in path.read_text()
]


@pytest.mark.slow
@pytest.mark.parametrize("file", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_of_the_clone_reads_its_words_as_a_command_does(file, capsys):
    program = pytest.importorskip(".".join(file.relative_to(ROOT).with_suffix("").parts))  # peers are an extra
    with pytest.raises(SystemExit, match="0"):
        program.main(["--help"])
    assert program.__doc__.strip() in capsys.readouterr().out
    with pytest.raises(InputError, match="unknown option '--zzz'"):
        program.main(["--zzz"])


def test_the_package_is_the_console_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"jaxbp": f"{jaxbp_command.main.__module__}:{jaxbp_command.main.__name__}"}
    words = [sys.executable, "-m", "jaxbp", "trian"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "did you mean 'train'" in done.stderr


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_in_the_package_are_those_of_the_clone(name):
    assert configuration.load(ROOT / f"configs/{name}.py") == EXPERIMENTS[name]


def test_bench_outside_a_clone(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site-packages/jaxbp/commands/bench.py"))
    assert "the suites are in jaxbp's repository" in refused(capsys, "bench")


def test_check_checks_code_too(capsys, tmp_path):
    code = tmp_path / "code.py"
    code.write_text("def f(x):\n    return x * x\n\nexample = lambda: (3.0,)\n")
    assert main(["check", f"--function={code}:f", f"--example={code}:example"]) == 0
    assert "gradient check of f: pass" in capsys.readouterr().out
    assert "--function needs --example too" in refused(capsys, "check", f"--function={code}:f")
    assert "--module needs --example too" in refused(capsys, "check", f"--module={code}:f")
    assert "--loss needs --function too" in refused(capsys, "check", f"--loss={code}:f", f"--example={code}:example")


def test_predict_hands_on_what_it_is_told(capsys, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(predict, "predict_file", lambda *words: told.append(words))
    assert "--input is missing" in refused(capsys, "predict", tmp_path)
    assert "has no config.json" in refused(capsys, "predict", tmp_path, "--input=a.csv", f"--output={tmp_path}/b.csv")
    config = EXPERIMENTS["xor"]
    RunFolder(tmp_path).write(config, config.data.load().preparation, None)
    assert main(["predict", str(tmp_path), "--input", "a.csv", "--output", f"{tmp_path}/b.csv"]) == 0
    assert told == [(str(tmp_path), "a.csv", f"{tmp_path}/b.csv", False, None)]


@pytest.mark.slow
def test_only_a_run_on_text_is_sampled(capsys, tmp_path):
    jaxbp.train(replace(EXPERIMENTS["xor"], run=Run(1, batch_size=None)), tmp_path)
    assert refused(capsys, "sample", str(tmp_path)) == f"{tmp_path} is not a run on text by characters or tokens"


# --- Words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "others"),
    [
        ([], {}, []),
        (["my.py"], {"config": "my.py"}, []),
        (["--config", "my.py"], {"config": "my.py"}, []),
        (["my.py", "--fresh"], {"config": "my.py", "fresh": True}, []),
        (["--fresh", "my.py"], {"config": "my.py", "fresh": True}, []),
        (["--fresh=TRUE"], {"fresh": True}, []),
        (["--fresh", "False"], {}, []),
        (["--folds", "3", "my.py"], {"config": "my.py", "folds": 3}, []),
        (["--folds=NONE", "--workdir=none"], {}, []),
        (["--workdir", "a=b"], {"workdir": "a=b"}, []),
        (["--workdir="], {"workdir": ""}, []),
        (["--config.model.hidden", "64", "32"], {}, ["--config.model.hidden=64 32"]),
        (["--config.model.hidden", "64", "32", "my.py"], {"config": "my.py"}, ["--config.model.hidden=64 32"]),
        (["--config.model.hidden=64,32", "my.py"], {"config": "my.py"}, ["--config.model.hidden=64,32"]),
        (["--config.data.path", "text.py"], {}, ["--config.data.path=text.py"]),
        (["--config.data.low", "-3.5", "--folds=2"], {"folds": 2}, ["--config.data.low=-3.5"]),
        (["--config.run.epochs"], {}, ["--config.run.epochs"]),
        (["--what", "ever"], {}, ["--what=ever"]),
    ],
    ids=str,
)
def test_words(words, options, others):
    assert cli.read(train.Options, words) == (train.Options(**options), others)


def test_lists_as_words_or_with_commas():
    texts = ["64 32", "64,32", "64, 32", "(64, 32)"]
    assert {cli.override(EXPERIMENTS["xor"], [f"--config.model.hidden={text}"], train.Options()) for text in texts} == {
        configuration.replace_keys(EXPERIMENTS["xor"], {"model.hidden": (64, 32)})
    }


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "false", "False", "FALSE", "none", "None", "NONE"])
def test_true_false_and_none_in_any_case(text):
    key, value = ("batch_size", None) if text.lower() == "none" else ("shuffle", text.lower() == "true")
    config = cli.override(EXPERIMENTS["digits_mlp"], [f"--config.run.{key}={text}"], train.Options())
    assert getattr(config.run, key) is value


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (train, ["--folds=1"], "--folds must be an integer of at least 2 or None, got '1'"),
        (train, ["--folds=abc"], "--folds must be an integer of at least 2 or None, got 'abc'"),
        (train, ["--folds"], "--folds needs a value: --folds=VALUE"),
        (train, ["--fresh=maybe"], "--fresh must be True or False, got 'maybe'"),
        (train, ["--fresh", "--fresh"], "--fresh is given twice"),
        (train, ["a.py", "b.py"], "--config is given twice"),
        (sample, ["--temperature=-1"], "--temperature must be a finite number of at least 0, got '-1'"),
        (sample, ["--temperature", "-1"], "--temperature must be a finite number of at least 0, got '-1'"),
        (sample, ["--length=0"], "--length must be an integer of at least 1, got '0'"),
        (sample, ["--run"], "--run needs a value: --run=VALUE"),
        (sample, ["--verbosity=abc"], "unknown option '--verbosity'"),
        (sample, ["--lenght=3"], "unknown option '--lenght'; did you mean '--length'?"),
        (replay, [], "--run is missing"),
        (replay, ["--run=a", "--fresh"], "unknown option '--fresh'"),
        (bench, ["--runs=0"], "--runs must be an integer of at least 1, got '0'"),
        (bench, ["--json=no/such/folder/x.json"], "--json must be a text that names a file in a folder that is there"),
        (check_command, ["--level=half"], "--level must be one of 'default', 'full', got 'half'"),
        (check_command, ["--json=/"], "--json must be a text that names a file in a folder that is there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_value_is_told_before_anything_else(command, words, line):
    with pytest.raises(InputError) as error:
        command.main(words)
    assert str(error.value).startswith(line)


def test_the_options_of_a_command_are_among_those_it_names():
    for word, nearest in (("--fold=3", "--folds"), ("--frsh", "--fresh"), ("--confg=my.py", "--config")):
        with pytest.raises(InputError, match=f"unknown option '{word.partition('=')[0]}'; did you mean '{nearest}'?"):
            train.main([word])
    with pytest.raises(
        InputError,
        match=r"--config, --config\.credit, --config\.data, .* --folds, --fresh, --process, --processes, --workdir\)",
    ):
        train.main(["--zzzzzzzzzz"])


OWN = """
from dataclasses import dataclass, replace
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.models import ModelConfig
{decorator}
class {name}(ModelConfig):
    width: int = 8
    def build(self):
        return {built}
def {function}():
    return replace(EXPERIMENTS["xor"], model={name}(width=3))
"""
GOOD = {"decorator": "@dataclass(frozen=True)", "built": "3", "function": "get_config"}


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("own.py", {}, "Own.build() must return a layer, got int"),
        ("own.py", {"built": "1 / 0"}, "Own.build() raised ZeroDivisionError: division by zero"),
        ("own.py", {"decorator": ""}, "own.py: a subclass of ModelConfig needs @dataclass(frozen=True), for its keys"),
        ("own.py", {"function": "config"}, "own.py: it has no get_config(), which returns the Config"),
        ("own.csv", {}, "own.csv is no config file: it must be Python (.py) with get_config()"),
    ],
)
def test_a_config_file_of_ones_own_that_is_wrong_is_one_line(file, change, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(file).write_text(OWN.format(**GOOD | {"name": "Own"} | change))
    assert refused(capsys, "train", file) == line


def test_an_option_without_its_dashes(capsys):
    line = "an option begins with --: did you mean '--config.run.epochs=5'?"
    assert refused(capsys, "train", "xor", "config.run.epochs=5") == line


def test_the_folder_of_folds_names_their_runs(capsys, tmp_path):
    config = EXPERIMENTS["xor"]
    RunFolder(tmp_path / "fold_00").write(config, config.data.load().preparation, None)
    assert refused(capsys, "evaluate", tmp_path).endswith(f"; the runs of its folds are {tmp_path}/fold_00 and so on")


# --- What goes wrong outside -----------------------------------------------------------------------------------------


def test_a_file_for_a_folder(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert refused(capsys, "train", f"--workdir={file}") == f"--workdir: {file} is a file, and must be a folder"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "x/metrics.jsonl"), "x/metrics.jsonl: No space left on device"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (OSError("odd"), "odd"),
        (InputError("two\nlines"), "two lines"),
    ],
    ids=repr,
)
def test_whatever_the_system_refuses_is_one_line(error, line, capsys, monkeypatch):
    def fail(words):
        raise error

    monkeypatch.setattr(train, "main", fail)
    assert refused(capsys, "train") == line


def test_a_fault_of_jaxbp_keeps_its_traceback(monkeypatch):
    def fail(words):
        raise ModuleNotFoundError("No module named 'x'", name="x")

    monkeypatch.setattr(train, "main", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["train"])


def in_process(code, *words, **options):
    """A command in a process of its own, after `code`."""
    program = f"import sys\n{code}\nfrom jaxbp.commands.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)], stderr=subprocess.PIPE, text=True, cwd=ROOT, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [("train", "tqdm"), ("train", "sklearn"), ("train", "matplotlib"), ("train", "orbax"), ("check", "sklearn")],
)
def test_a_missing_extra_is_named(name, package, tmp_path):
    words = [f"--workdir={tmp_path / 'run'}", "--config.run.epochs=1"] if name == "train" else []
    process = in_process(f"sys.modules['{package}'] = None", name, *words, stdout=subprocess.PIPE)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err == f"error: {package} is missing: pip install 'jaxbp[train]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words", [[], *(pytest.param(words, marks=pytest.mark.slow) for words in (["train", "--help"], ["train"]))], ids=str
)
def test_output_that_nobody_reads(words, tmp_path):
    process = in_process("", *words, *([f"--workdir={tmp_path}"] if words else []), stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=300) == 2
    assert process.stderr.read() == "error: nobody reads the output any more\n"
    process.stderr.close()


@pytest.mark.slow
def test_output_onto_a_full_disk(tmp_path):
    with Path("/dev/full").open("w") as full:
        process = in_process("", stdout=full)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err == "error: standard output: No space left on device\n"


@pytest.mark.slow
def test_an_empty_folder_is_enough_to_train(tmp_path):
    """The digits, without a clone's configs."""
    process = subprocess.run(
        [sys.executable, "-m", "jaxbp", "train", "--config.run.epochs=2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "run folder runs/digits_mlp" in process.stdout
    assert (tmp_path / "runs/digits_mlp/curves.png").exists()
