"""The gradient check of every experiment in configs/, in float64 on its own data."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from jaxbp.commands.check import check_config
from jaxbp.config import load
from jaxbp.data import Csv, Mnist, Text
from jaxbp.models.transformer import Transformer
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("configs/*.py"))
DEEP = ["digits_resnet", "mnist_resnet"]  # the tests' XLA settings make code that takes minutes to run for them
COSTLY = [  # others have their layers, or their kinds of model, loss and data
    "adaline",
    "adding",
    "adding_encoder",
    "charlm",
    "delay_loop",
    "digits_bilinear",
    "digits_dp",
    "digits_log_covariance",
    "digits_vae",
    "digits_vit",
    "iris",
    "mnist_capsules",
    "mnist_lenet5",
    "mnist_one_conv",
    "shakespeare_gpt",
    "shakespeare_gpt_large",
    "sine_lm",
]
PIXELS = {"mnist_capsules": 24}  # its convolutions leave nothing of an image of 16
MARKS = {True: [pytest.mark.nightly], False: []}
EXPERIMENTS = [pytest.param(f, id=f.stem, marks=MARKS[f.stem in COSTLY]) for f in FILES if f.stem not in DEEP]


def idx(array):
    """The bytes of an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def write_images(folder, size):
    """MNIST's files with a few random images of size x size pixels."""
    rng = np.random.default_rng(0)
    for part, examples in (("train", 200), ("t10k", 20)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(rng.integers(256, size=(examples, size, size))))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(examples) % 10))


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """Paths of small files in place of those that a user downloads."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder, 16)
    rng = np.random.default_rng(0)
    rows = [[*rng.normal(size=7).round(3), label] for label in (1, 2, 3) * 40]
    (folder / "seeds.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return {Mnist: {"path": str(folder), "train_size": None}, Csv: {"path": str(folder / "seeds.csv")}}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS)
def test_the_gradient_of_every_experiment_is_right(path, small_files, tmp_path):
    config = load(path)
    data = replace(config.data, **small_files.get(type(config.data), {}))
    if path.stem in PIXELS:
        write_images(tmp_path, PIXELS[path.stem])
        data = replace(data, path=str(tmp_path))
    if isinstance(config.model, Transformer):  # as deep as it needs to be
        config = replace(config, model=replace(config.model, width=20, depth=2))
    if isinstance(data, Text):
        data = replace(data, size=50_000, length=16)
    report = check_config(replace(config, data=data))
    assert report.passed, str(report)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_the_gradient_of_a_deep_experiment_is_right_with_a_users_settings(name, tmp_path):
    write_images(tmp_path, 8)
    words = [f"--config.data.path={tmp_path}", "--config.data.train_size=None"] if name == "mnist_resnet" else []
    command = [sys.executable, "-m", "jaxbp", "check", str(ROOT / f"configs/{name}.py"), *words]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    assert run.returncode == 0, run.stdout + run.stderr
