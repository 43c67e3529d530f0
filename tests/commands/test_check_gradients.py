"""The gradient check of every experiment in configs/, in float64 on its own data."""

from dataclasses import replace

import numpy as np
import pytest

from jaxbp.commands.check import check_config
from jaxbp.config import load
from jaxbp.data import Csv, Mnist, Text
from jaxbp.models.transformer import Transformer
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("configs/*.py"))
SKIPPED = {
    "adding_encoder": "passes in 45 s of processor time; its blocks are in shakespeare_gpt and test_transformers.py",
    "digits_vit": "passes in 20 s of processor time; its blocks are in shakespeare_gpt and test_transformers.py",
    "shakespeare_gpt_30min": "passes in 18 s of processor time; it differs from shakespeare_gpt in sizes and positions",
    "digits_resnet": "passes in 41 s with a user's XLA settings; with the tests' in 250 s of processor time",
    "mnist_resnet": "passes on 8 x 8 images in 30 s with a user's XLA settings; with the tests' not in 500 s",
}


def idx(array):
    """The bytes of an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """Paths of small files in place of those that a user downloads."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, examples in (("train", 200), ("t10k", 20)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(rng.integers(256, size=(examples, 16, 16))))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(examples) % 10))
    rows = [[*rng.normal(size=7).round(3), label] for label in (1, 2, 3) * 40]
    (folder / "seeds.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return {Mnist: {"path": str(folder), "train_size": None}, Csv: {"path": str(folder / "seeds.csv")}}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_gradient_of_every_experiment_is_right(path, small_files):
    if path.stem in SKIPPED:
        pytest.skip(SKIPPED[path.stem])
    config = load(path)
    data = replace(config.data, **small_files.get(type(config.data), {}))
    if isinstance(config.model, Transformer):  # as deep as it needs to be
        config = replace(config, model=replace(config.model, width=20, depth=2))
    if isinstance(data, Text):
        data = replace(data, size=50_000, length=16)
    report = check_config(replace(config, data=data))
    assert report.passed, str(report)
