"""A recogniser of letters: the config of MNIST on any other pair of IDX files, here with labels 1 to 26 as EMNIST's."""

import struct

import numpy as np
import pytest

from jaxbp.config import load, override
from jaxbp.data.characters import drawn_pixels
from jaxbp.training.loop import train
from tests.support.paths import ROOT


def write_idx(path, array):
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.mark.slow
def test_letters_in_idx_files_are_learnt_by_the_config_of_mnist(tmp_path):
    draw = np.random.default_rng(0)
    for part, count in (("train", 520), ("test", 104)):
        labels = np.arange(count) % 26
        images = drawn_pixels()[labels].reshape(count, 7, 5) * 200 + draw.uniform(0, 55, (count, 7, 5))
        write_idx(tmp_path / f"{part}_images", images.astype(np.uint8))
        write_idx(tmp_path / f"{part}_labels", (labels + 1).astype(np.uint8))
    files = [
        f"data.{name}={tmp_path / name}"
        for name in (f"{p}_{k}" for p in ("train", "test") for k in ("images", "labels"))
    ]
    words = ["data=Idx", *files, "model.outputs=26", "model.hidden=32", "run.epochs=4", "run.batch_size=32"]
    words += ["optimizer.learning_rate=0.02", "model.dropout=0.0", "run.evaluate_every=4"]
    config = override(load(ROOT / "configs/mnist_mlp.py"), [f"--config.{word}" for word in words])
    metrics = train(config, tmp_path / "run")
    assert config.data.load().classes == tuple(map(str, range(1, 27)))
    assert metrics["test_accuracy"] > 0.95
