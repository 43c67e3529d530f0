"""Runs on token files: the same bytes however they are read and wherever they are resumed, in little memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from math import log

import numpy as np
import pytest

from jaxbp.commands import evaluate
from jaxbp.commands.__main__ import main
from jaxbp.config import Config, Run, to_json
from jaxbp.data import Splits, Tokens
from jaxbp.data.tokenize import tokenize
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import GPT, LayerModel
from jaxbp.optim import SGD, AdamW
from jaxbp.training.loop import train
from tests.support.paths import ROOT
from tests.support.runs import weights

FOX = "the quick brown fox jumps over the lazy dog\n" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("text")
    (place / "fox.txt").write_text(FOX)
    tokenize([place / "fox.txt"], place / "fox")
    return place / "fox"


def config(folder, **run):
    model = LayerModel("Chain(Embedding(28, 4), Dropout(0.1), Dense(28))")  # the model is not what is tested
    settings = {"epochs": 3, "batch_size": 5, "steps_per_call": 2, "checkpoint_seconds": 0.0}
    data = Tokens(str(folder), length=16, windows=28)
    return Config(data, model, SoftmaxCrossEntropy(), SGD(), Run(**(settings | run)))


@pytest.mark.slow
def test_resumed_in_every_place_gives_the_same_bytes(folder, tmp_path, monkeypatch):
    whole = train(config(folder, steps_per_call=3), tmp_path / "whole")
    assert whole["test_bits_per_byte"] == pytest.approx(whole["test_loss"] / log(2))
    visits = {"left": 0}

    class Ended(Exception):
        pass

    def note(point):
        visits["left"] -= 1
        if visits["left"] == 0:
            raise Ended

    monkeypatch.setattr("jaxbp.training.loop.reached", note)
    for gap in (2, 10**9):
        visits["left"] = gap
        try:
            train(config(folder), tmp_path / "parts")
        except Ended:
            assert gap < 10
    scores = evaluated(tmp_path / "parts")
    assert scores["test"] == pytest.approx(
        {key: whole[f"test_{key}"] for key in ("loss", "accuracy", "bits_per_byte")} | {"examples": 10 * 16}
    )
    assert scores["train"]["accuracy"] == pytest.approx(whole["train_accuracy"])
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def evaluated(folder):
    assert evaluate.main([str(folder)]) == 0
    return json.loads((folder / "scores.json").read_text())


@pytest.mark.slow
def test_rows_from_the_disk_are_the_rows_in_memory(folder, tmp_path):
    """In file order, a run on the stream and one on the same windows as arrays leave the same weights."""
    settings = config(folder, shuffle=False)
    settings = replace(settings, data=replace(settings.data, windows=None))
    splits = settings.data.load()
    arrays = Splits(splits.train.take(slice(None)), None, splits.test, splits.classes, splits.fitted)
    train(settings, tmp_path / "disk")
    train(settings, tmp_path / "memory", splits=arrays)
    assert weights(tmp_path / "disk") == weights(tmp_path / "memory")


@pytest.mark.slow
def test_tokenize_and_train_as_commands(tmp_path, capsys):
    def said(*words, status=0):
        assert main([str(word) for word in words]) == status
        return "".join(capsys.readouterr())

    (tmp_path / "fox.txt").write_text(FOX)
    out = tmp_path / "fox"
    text = said("tokenize", tmp_path / "fox.txt", f"--out={out}", "--multiple=8")
    assert "train.bin  1,584 ids, llm.c, <u2" in text
    assert "1,760 ids of 1,760 bytes: model.outputs is 32\n" in text
    assert "is there already" in said("tokenize", tmp_path / "fox.txt", f"--out={out}", status=2)
    assert "there is no file" in said("tokenize", tmp_path / "no.txt", f"--out={tmp_path / 'b'}", status=2)
    words = ("train", ROOT / "configs/shakespeare_gpt.py", "--config.data=Tokens", f"--config.data.path={out}")
    assert "set model.outputs=32" in said(*words, "--config.data.length=16", f"--workdir={tmp_path}/run", status=2)


MEASURED = """
import json, resource, sys
from pathlib import Path
from jaxbp.config import from_json
from jaxbp.training.loop import train

train(from_json(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.nightly
def test_three_gigabytes_of_tokens_train_in_one_of_memory(tmp_path):
    """A file with holes has the size without the disk's space; every tenth megabyte holds ids."""
    size = 3 * 2**30
    with (tmp_path / "train.bin").open("wb") as file:
        file.truncate(size)
        for place in range(0, size, 10 * 2**20):
            file.seek(place)
            np.random.default_rng(place).integers(0, 1000, 2**19).astype("<u2").tofile(file)
    data = Tokens(str(tmp_path / "train.bin"), length=256, vocabulary=1000, windows=500)
    model = GPT(outputs=1000, width=64, depth=2, heads=2, context=256)
    run = Run(epochs=3, batch_size=16, steps_per_call=20, checkpoint_seconds=0.0)
    (tmp_path / "config.json").write_text(json.dumps(to_json(Config(data, model, SoftmaxCrossEntropy(), AdamW(), run))))
    words = [sys.executable, "-c", MEASURED, str(tmp_path / "config.json"), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    kibibytes = int(done.stdout.split()[-1])
    print(f"peak of resident memory: {kibibytes / 2**20:.2f} GiB")
    assert kibibytes < 2**20
