"""Config files: what they give, and a clear line for whatever can be wrong in one."""

import sys

import pytest

from jaxbp import InputError
from jaxbp.config import Config, Run, from_json, load, override, to_json
from jaxbp.data import Logic
from jaxbp.losses import BinaryCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import SGD

XOR = Config(Logic("xor"), MLP(1, (4, 3)), BinaryCrossEntropy(), SGD(0.1), Run(2, seed=3))  # what GOOD gives
GOOD = """
from jaxbp.config import *
from jaxbp.data import Logic
from jaxbp.losses import BinaryCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import SGD, Constant, Cosine

def get_config():
    model = MLP(1, (4, 3))
    return Config(data=Logic("xor"), model=model, loss=BinaryCrossEntropy(), optimizer=SGD(0.1), run=Run(2, seed=3))
"""


def failed(path, text=None):
    """The line that loading the file ends in, its path included."""
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_config_file(tmp_path):
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    assert load(path) == load(str(path)) == XOR


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_a_config_file_with_classes_of_its_own(tmp_path, future):
    path = tmp_path / "own.py"
    path.write_text(f"""{future}
from dataclasses import dataclass
from typing import ClassVar, Literal
{GOOD}
@dataclass(frozen=True)
class Wide(MLP):
    kind: Literal["a", "b"] = "a"
    note: ClassVar[str] = ""

old = get_config
def get_config():
    return Config(old().data, Wide(1), old().loss, old().optimizer, old().run)
""")
    config = load(path)
    assert override(config, ["--config.model.kind=b"]).model.kind == "b"
    assert from_json(to_json(config)) == config


def test_a_file_that_is_not_there(tmp_path):
    assert failed(tmp_path / "any.py") == f"there is no config file {tmp_path / 'any.py'}"
    assert failed(tmp_path / "folder" / "any.py") == f"there is no config file {tmp_path / 'folder' / 'any.py'}"
    for name in ("digits", "iris"):
        (tmp_path / f"{name}.py").write_text(GOOD)
    assert f"did you mean '{tmp_path / 'digits.py'}'" in failed(tmp_path / "digit.py")
    failed(tmp_path)


@pytest.mark.parametrize("name", ["config.txt", "config", "config.json"])
def test_a_file_that_is_not_python(tmp_path, name):
    failed(tmp_path / name, "{}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "get_config"),
        (GOOD.replace("get_config", "get_confg"), "get_config"),
        ("get_config = 3", "not callable"),
        ("def get_config(): return {'epochs': 3}", "get_config() must return a jaxbp.config.Config, got dict"),
        ("def get_config(): pass", "get_config() must return a jaxbp.config.Config, got NoneType"),
        ("def get_config(): raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def get_config(): raise RuntimeError('boom\\nand more')", "boom"),
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(a): pass", "'a'"),
        (GOOD.replace("MLP(1,", "MLP(0,"), "at least 1, got 0"),
        (GOOD.replace("Run(2,", "Run("), "'epochs'"),
        (GOOD.replace("SGD(0.1)", "SGD(0.1, momentum=2)"), "momentum must be a finite number in [0, 1), got 2"),
        (GOOD.replace("seed=3", "seed=3.5"), "Run: seed must be an integer in [0, 4294967295], got 3.5"),
        (GOOD.replace('"xor"', '"xorr"'), "did you mean 'xor'"),
    ],
)
def test_a_file_that_gives_no_config(tmp_path, text, says):
    assert says in failed(tmp_path / "bad.py", text)


@pytest.mark.parametrize(
    ("right", "wrong", "nearest"),
    [
        ("loss=", "los=", "key of Config 'los'; did you mean 'loss'"),
        ("seed=3", "sed=3", "key of Run 'sed'; did you mean 'seed'"),
        ("MLP(1,", "MLP(dropot=0.1, outputs=1, hidden=", "key of MLP 'dropot'; did you mean 'dropout'"),
        ("SGD(0.1)", "SGD(learning_rte=0.1)", "key of SGD 'learning_rte'; did you mean 'learning_rate'"),
        ("SGD(0.1)", "SGD(0.1, Cosine(warmpu=0.1))", "key of Cosine 'warmpu'; did you mean 'warmup'"),
        ("SGD(0.1)", "SGD(0.1, Constant(warmup=0.1))", "key of Constant 'warmup'"),
        ('Logic("xor")', 'Logic(operater="xor")', "key of Logic 'operater'; did you mean 'operator'"),
        ("Entropy()", "Entropy(smoothing=1)", "key of BinaryCrossEntropy 'smoothing'; did you mean 'label_smoothing'"),
        ("seed=3)", "seed=3), penalty=Penalty(path='.*')", "key of Penalty 'path'; did you mean 'paths'"),
    ],
)
def test_a_misspelt_keyword_names_the_nearest(tmp_path, right, wrong, nearest):
    assert f"unknown {nearest}" in failed(tmp_path / "bad.py", GOOD.replace(right, wrong))


@pytest.mark.parametrize(
    ("right", "wrong", "key", "value"),
    [
        ("Run(2,", "Run('two',", "epochs", "'two'"),
        ("MLP(1, (4, 3))", "MLP('one')", "outputs", "'one'"),
        ("MLP(1, (4, 3))", "MLP(1, 128)", "hidden", "128"),
        ("SGD(0.1)", "SGD('fast')", "learning_rate", "'fast'"),
        ("SGD(0.1)", "SGD(0.1, momentum=None)", "momentum", "None"),
        ("Entropy()", "Entropy('much')", "label_smoothing", "'much'"),
    ],
)
def test_a_wrong_type_in_a_file_names_key_and_value(tmp_path, right, wrong, key, value):
    text = failed(tmp_path / "bad.py", GOOD.replace(right, wrong))
    assert key in text
    assert f"got {value}" in text


def test_a_file_is_read_afresh(tmp_path, monkeypatch):
    """Also one that changed within a second and kept its length: bytecode of it would be taken for up to date."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "config.py"
    for epochs in (2, 7):
        path.write_text(GOOD.replace("Run(2", f"Run({epochs}"))
        assert load(path).run.epochs == epochs
