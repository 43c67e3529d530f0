"""Runs whose config has classes of one's own: the run folder keeps the files that define them."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxbp
from jaxbp import config as configuration
from jaxbp.commands.__main__ import COMMANDS, main
from jaxbp.models import ModelConfig
from jaxbp.models.model import LayerModel
from jaxbp.training.folder import RunFolder
from jaxbp.training.loop import train
from jaxbp.training.own_code import own_files
from jaxbp.training.predict import predict_file
from jaxbp.training.run import load
from jaxbp.typed import field_types, missing_fields
from tests.support.runs import rewrite, small, weights

MINE = """
from __future__ import annotations
from dataclasses import dataclass, replace
import jaxbp
from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.data.pipeline import DataConfig
from jaxbp.models import ModelConfig
from jaxbp.models.model import LayerModel
from jaxbp.optim import SGD
from jaxbp.typed import Count

class {name}Scaled(jaxbp.Dense):
    pass

@dataclass(frozen=True)
class {name}Net(ModelConfig):
    hidden: Count = 7
    def build(self):
        return jaxbp.Chain(({name}Scaled(self.hidden), jaxbp.Tanh(), jaxbp.Dense(3)))

@dataclass(frozen=True)
class {name}Data(DataConfig):
    data: DataConfig
    def load(self):
        return self.data.load()

@dataclass(frozen=True)
class {name}Loss(jaxbp.SoftmaxCrossEntropy):
    pass

@dataclass(frozen=True)
class {name}SGD(SGD):
    pass

def get_config():
    data = {name}Data(Embedded("iris", scaling="standard"))
    return Config(data, {name}Net(), {name}Loss(), {name}SGD(0.1), Run(epochs=1, batch_size=16))
"""
NAMES = {"model": "MineNet", "data": "MineData", "loss": "MineLoss", "optimizer": "MineSGD"}


def config_of(file: Path, text: str) -> configuration.Config:
    """The config of a file with this text."""
    file.write_text(text)
    return configuration.load(file)


def forget(name: str) -> None:
    """As in a new process: no class of the config file is known."""
    for base in (ModelConfig, jaxbp.Layer, configuration.DataConfig, jaxbp.Loss, configuration.OptimizerConfig):
        for cls in list(configuration._family(base)):
            if cls.__name__.startswith(name):
                cls.__name__ = cls.__qualname__ = f"Forgotten{cls.__name__}"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run of a config file of one's own, which is gone."""
    folder = tmp_path_factory.mktemp("original")
    train(config_of(folder / "mine.py", MINE.format(name="Mine")), folder / "run")
    (folder / "mine.py").unlink()
    return folder / "run"


@pytest.fixture
def run(original, tmp_path):
    """A copy of the run, of which nothing is known in this process."""
    forget("Mine")
    return shutil.copytree(original, tmp_path / "run")


def test_a_run_of_ones_own_classes_loads_if_told_to_run_its_code(run):
    with pytest.raises(jaxbp.InputError, match=r"does not have them: jaxbp\.load\(run, code=True\)") as refusal:
        load(run)
    assert f"{run}/code/mine.py" in str(refusal.value)
    assert "--code" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    trained = load(run, code=True)
    assert {key: type(getattr(trained.config, key)).__name__ for key in NAMES} == NAMES
    assert trained.model == trained.config.model.build()
    assert weights(run) == weights(run)  # now its classes are known, and they are those that the run has kept
    forget("Mine")
    with pytest.raises(jaxbp.InputError, match="code=True"):
        RunFolder(run).config()


@pytest.mark.slow
def test_commands_run_it_if_told_to(run, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("5.1,3.5,1.4,0.2\n")
    words = {
        "evaluate": [str(run)],
        "predict": [str(run), f"--input={tmp_path}/rows.csv", f"--output={tmp_path}/y.csv"],
    }
    for command, options in words.items():
        forget("Mine")
        assert main([command, *options]) == 2
        assert "in a command --code, runs the code that the run has kept" in capsys.readouterr().err
        assert main([command, *options, "--code"]) == 0
    assert (tmp_path / "y.csv").read_text().startswith("label,probability setosa,")


def test_code_that_was_changed_is_not_run(run):
    with (run / "code/mine.py").open("a") as file:
        file.write("\nraise SystemExit\n")
    with pytest.raises(jaxbp.InputError, match=r"mine\.py is not the file that the run was made with"):
        load(run, code=True)
    (run / "code/mine.py").unlink()
    with pytest.raises(jaxbp.InputError, match=r"mine\.py is not the file that the run was made with"):
        load(run, code=True)


def test_classes_of_the_same_name_from_other_code_are_not_taken(run, tmp_path):
    config_of(tmp_path / "other.py", MINE.format(name="Mine") + "# another version\n")
    with pytest.raises(jaxbp.InputError, match="this process has them from other code"):
        load(run)
    load(run, code=True)
    load(run)
    config_of(tmp_path / "other.py", MINE.format(name="Mine") + "# another version\n")
    with pytest.raises(jaxbp.InputError, match="this process has them from other code"):
        load(run)


def test_a_config_that_is_wrong_otherwise_says_so(run):
    def misspelt(facts):
        facts["config"]["run"]["epoch"] = 3
        return facts

    rewrite(run, misspelt)
    with pytest.raises(jaxbp.InputError, match="unknown key of Run 'epoch'; did you mean 'epochs'"):
        load(run, code=True)


def test_code_that_fails_is_one_line(run):
    (run / "code/mine.py").write_text("import nothing_of_this_name")

    def of_that_code(facts):
        facts["config"]["code"] = {"mine.py": jaxbp.training.checkpoint.digest(run / "code/mine.py")}
        return facts

    rewrite(run, of_that_code)
    with pytest.raises(jaxbp.InputError, match=r"mine\.py: ModuleNotFoundError: No module named"):
        load(run, code=True)


@pytest.mark.slow
def test_resuming_needs_no_flag_and_is_refused_where_the_code_differs(tmp_path):
    config = config_of(tmp_path / "mine.py", MINE.format(name="Again"))
    train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    config = config_of(tmp_path / "mine.py", MINE.format(name="Again") + "# changed\n")
    with pytest.raises(
        jaxbp.InputError, match=r"another version of your code, mine\.py was .* \(--fresh starts it over"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run/code/mine.py").read_text().endswith("# changed\n")
    train(small(epochs=1), tmp_path / "run", fresh=True)
    assert not (tmp_path / "run/code").exists()
    assert "code" not in json.loads((tmp_path / "run/config.json").read_text())


@pytest.mark.slow
def test_a_module_beside_the_config_is_kept_too(tmp_path, monkeypatch):
    """The config imports its layer from a file of its own; the kept copies import each other."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/own_layer.py").write_text("import jaxbp\nclass Beside(jaxbp.Dense):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    text = MINE.format(name="Pair").replace("jaxbp.Dense(3)", "Beside(3)")
    text = text.replace("import jaxbp\n", "import jaxbp\nfrom own_layer import Beside\n")
    config = config_of(tmp_path / "pair.py", text)
    assert own_files(config) == {"own_layer.py": tmp_path / "own/own_layer.py", "pair.py": tmp_path / "pair.py"}
    train(config, tmp_path / "run")
    monkeypatch.undo()
    del sys.modules["own_layer"]
    forget("Pair")
    forget("Beside")
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    assert type(load(tmp_path / "run", code=True).model.layers[-1]).__name__ == "Beside"
    del sys.modules["own_layer"]


def test_what_jaxbp_ships_and_what_was_typed_in_is_not_kept(tmp_path):
    assert own_files(small()) == {}
    typed_in: dict = {"__name__": "typed_in"}
    exec("import jaxbp\nclass TypedIn(jaxbp.Dense):\n    pass", typed_in)
    assert own_files(LayerModel.of(typed_in["TypedIn"](3))) == {}


def test_a_prediction_of_a_loaded_run_is_that_of_its_classes(run):
    trained = load(run, code=True)
    labels = trained.predict(np.array([[5.1, 3.5, 1.4, 0.2]])).labels
    assert labels[0] in ("setosa", "versicolor", "virginica")


TRACE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"  # code that leaves a file when it runs
READERS = {
    name: options
    for name in COMMANDS
    if "code" in field_types(options := importlib.import_module(f"jaxbp.commands.{name}").Options)
}


@pytest.fixture(scope="module")
def tracing(tmp_path_factory):
    """A run whose kept code leaves a file beside it when it runs; its config file is gone."""
    folder = tmp_path_factory.mktemp("tracing")
    train(config_of(folder / "mine.py", MINE.format(name="Traced") + TRACE), folder / "run")
    assert (folder / "mine.ran").exists()
    (folder / "mine.py").unlink()
    (folder / "rows.csv").write_text("5.1,3.5,1.4,0.2\n")
    return folder


@pytest.mark.slow
def test_no_command_runs_kept_code_unless_it_is_told_to(tracing, capsys):
    """Of all commands that read a run, as their parsers list them."""
    assert READERS.keys() >= {"evaluate", "predict", "replay", "sample"}
    trace = tracing / "run/code/mine.ran"
    paths = {
        "run": tracing / "run",
        "input": tracing / "rows.csv",
        "output": tracing / "out.csv",
        "text": "a",
        "kind": "line",
    }
    for name, options in READERS.items():
        needed = dict.fromkeys(missing_fields(options, ()), "a") | paths
        words = [name, *(f"--{option}={needed[option]}" for option in field_types(options) if option in needed)]
        forget("Traced")
        main(words)
        assert not trace.exists(), name
        main([*words, "--code"])
        assert trace.exists(), name
        trace.unlink()
    for read in (
        load,
        lambda run: RunFolder(run).config(),
        lambda run: predict_file(run, paths["input"], paths["output"]),
    ):
        forget("Traced")
        with pytest.raises(jaxbp.InputError, match="code=True"):
            read(tracing / "run")
    words = ["train", f"--workdir={tracing / 'run'}", "--config.run.epochs=2"]
    assert main(words) == 2  # another config; the folder's own is compared, and its code is not run
    assert not trace.exists()
