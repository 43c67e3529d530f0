"""The commands as a user types them: what they print, their exit status, and that bad input writes nothing."""

import gzip
import json
import re

import numpy as np
import pytest

from jaxbp.config import load, override
from jaxbp.errors import InputError
from tests.support.commands import command, refused
from tests.support.paths import ROOT


@pytest.mark.slow
def test_train_evaluate_and_check(tmp_path):
    run, table = tmp_path / "run", tmp_path / "table.json"
    words = ("--config=configs/iris.py", "--config.run.epochs=20")
    done = command("train.py", *words, f"--workdir={run}")
    assert done.stdout.splitlines()[-1].startswith("test accuracy 0.")
    assert done.stderr == ""
    accuracy = done.stdout.split()[-1]
    assert f"accuracy {accuracy}" in command("evaluate.py", f"--run={run}").stdout.splitlines()[-1]
    done = command("check_gradients.py", *words, f"--json={table}")
    assert "pass, 4 of 4 leaves right" in done.stdout.splitlines()[0]
    rows = json.loads(table.read_text())["leaves"]
    assert [row["path"] for row in rows] == ["01_dense/b", "01_dense/w", "03_dense/b", "03_dense/w"]
    assert all(row["verdict"] == "pass" and row["error"] < 1e-11 for row in rows)


@pytest.mark.nightly
def test_the_default_experiment_reaches_97_percent(tmp_path):
    last = command("train.py", f"--workdir={tmp_path}").stdout.splitlines()[-1]
    assert last.startswith("test accuracy ")
    assert float(last.split()[-1]) >= 0.97


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("--config.run.seeds=1", ["'--config.run.seeds'", "did you mean '--config.run.seed'"]),
        ("--config.run.batch_size=2000", ["run.batch_size is 2000", "1438 examples"]),
    ],
)
def test_train_refuses_bad_words_in_one_line(word, parts, tmp_path):
    line = refused("train.py", f"--workdir={tmp_path / 'run'}", word)
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("--config.optimizer.beta=1", "unknown option '--config.optimizer.beta'"),
        ("--config.run.epochs=many", "--config.run.epochs must be an integer of at least 1, got 'many'"),
        ("--wordkir=x", "unknown option '--wordkir'; did you mean '--workdir'?"),
        ("--config.run.sed=1", "unknown option '--config.run.sed'; did you mean '--config.run.seed'?"),
        ("--config.run.epochss=1", "unknown option '--config.run.epochss'; did you mean '--config.run.epochs'?"),
        (
            "--config.optimizer.learning_rat=1",
            "unknown option '--config.optimizer.learning_rat'; did you mean '--config.optimizer.learning_rate'?",
        ),
        ("--config.modl.dropout=1", "unknown option '--config.modl.dropout'; did you mean '--config.model.dropout'?"),
        ("--config.data.scalign=1", "unknown option '--config.data.scalign'; did you mean '--config.data.scaling'?"),
    ],
)
def test_what_a_bad_word_is_told(word, text):
    """In process: the test above shows that a command prints the line and ends with status 2."""
    with pytest.raises(InputError, match=re.escape(text)):
        override(load(ROOT / "configs/digits_mlp.py"), [word], ["--workdir"])


def test_a_misspelt_config_file_is_told_its_nearest_name():
    with pytest.raises(InputError, match=r"'.*configs/digit_mlp\.py'; did you mean '.*configs/digits_mlp\.py'"):
        load(ROOT / "configs/digit_mlp.py")


def test_train_refuses_bad_data_in_one_line(tmp_path):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + np.array([3, 2, 2], ">i4").tobytes()))
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / f"{name}.gz").write_bytes(b"")
    line = refused(
        "train.py", "--config=configs/mnist_mlp.py", f"--config.data.path={tmp_path}", f"--workdir={tmp_path / 'run'}"
    )
    assert str(tmp_path) in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_scripts_refuse_in_one_line(tmp_path):
    assert "has no config.json" in refused("evaluate.py", f"--run={tmp_path}")
    assert "did you mean 'dense'" in refused("bench.py", "--suite=dens")
    assert "did you mean 'configs/xor.py'" in refused("check_gradients.py", "--config=configs/xo.py")


@pytest.mark.slow
def test_a_wrong_backward_makes_the_check_exit_with_1(tmp_path):
    """A config of one's own, with a layer whose bias gradient is 1.5 times too large."""
    (tmp_path / "wrong.py").write_text("""
from dataclasses import dataclass
import jaxbp
from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.models import ModelConfig
from jaxbp.optim import SGD

class Wrong(jaxbp.Dense):
    def backward(self, params, x, dy):
        dx, grads = super().backward(params, x, dy)
        return dx, grads | {"b": 1.5 * grads["b"]}

@dataclass(frozen=True)
class Net(ModelConfig):
    def build(self):
        return jaxbp.Chain((jaxbp.Dense(5), jaxbp.Tanh(), Wrong(3)))

def get_config():
    return Config(Embedded("iris"), Net(), jaxbp.SoftmaxCrossEntropy(), SGD(0.1), Run(epochs=1, batch_size=16))
""")
    done = command("check_gradients.py", f"--config={tmp_path / 'wrong.py'}", status=1)
    assert "FAIL, 3 of 4 leaves right" in done.stdout.splitlines()[0]
    assert "02_wrong/b: likely cause" in done.stdout
