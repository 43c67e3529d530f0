"""Every key of a config that is accepted changes something: parameters, data, log or files."""
import functools
from dataclasses import replace
from pathlib import Path

import pytest
from test_train import weights

from jaxbp import config as configuration
from jaxbp import optimizers
from jaxbp.data import Embedded
from jaxbp.losses import Penalty, SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.train.loop import train
from jaxbp.train.run import fingerprint

BASE = configuration.Config(
    data=Embedded("wine", scaling="standard", validation_fraction=0.2),
    model=MLP(outputs=3, hidden=(8,), dropout=0.1),
    loss=SoftmaxCrossEntropy(),
    optimizer=optimizers.AdamW(schedule=optimizers.Cosine(warmup=0.2)),
    run=configuration.Run(epochs=4, batch_size=16, steps_per_call=3, checkpoint_seconds=0.0, patience=10),
    penalty=Penalty(l2=1e-3),
)
OTHER = {  # key: another value; what one of them must change
    "data.name": "digits", "data.validation_fraction": 0.3, "data.test_fraction": 0.3, "data.scaling": "min_max",
    "data.seed": 1, "data.image": True, "data.one_hot": True,
    "model.hidden": (9,), "model.activation": "tanh", "model.output_activation": "tanh", "model.dropout": 0.5,
    "model.w_init": "glorot_normal", "model.b_init": "ones", "model.outputs": 10,
    "loss.label_smoothing": 0.1,
    "optimizer.learning_rate": 0.01, "optimizer.b1": 0.8, "optimizer.b2": 0.9, "optimizer.eps": 0.1,
    "optimizer.weight_decay": 0.5, "optimizer.schedule.warmup": 0.5, "optimizer.schedule.final": 0.5,
    "optimizer.clip_norm": 0.01, "optimizer.clip_value": 0.001,
    "optimizer.groups": (optimizers.Group(".*", learning_rate_factor=0.5),),
    "optimizer.plateau": optimizers.Plateau(steps=1, factor=0.5, patience=1),
    "run.epochs": 5, "run.batch_size": 8, "run.seed": 1, "run.shuffle": False, "run.evaluate_every": 2,
    "run.micro_batches": 2, "run.patience": 1, "run.checkpoint_seconds": 1e6, "run.keep": 3,
    "penalty.l2": 0.1, "penalty.l1": 0.1, "penalty.paths": ".*",
}
DIGITS = {"data.name": "digits", "model.outputs": 10}
TOGETHER = {"data.name": DIGITS, "model.outputs": DIGITS, "data.image": DIGITS,
            "run.patience": {"optimizer.learning_rate": 0.3, "run.epochs": 20}}
NO_TRACE = {  # keys that leave no trace, on purpose
    "run.steps_per_call": "results must not depend on it; only the speed does",
    "data.scale_targets": "refused for labels; test_data.py has it for regression",
}


def changed(changes):
    return configuration._replace(BASE, changes)


def trace(config, folder: Path):
    """All that a run leaves: data, weights, metrics, and the names of its checkpoints."""
    train(config, folder)
    checkpoints = tuple(sorted(path.name for path in (folder / "checkpoints").iterdir()))
    return fingerprint(config.data.load()), weights(folder), (folder / "metrics.jsonl").read_bytes(), checkpoints


def test_every_key_is_in_the_table():
    in_files_only = {"optimizer.groups", "optimizer.plateau"}
    assert {key for key, _ in configuration.keys(BASE)} | in_files_only == OTHER.keys() | NO_TRACE.keys()


@pytest.fixture(scope="module")
def trace_of(tmp_path_factory):
    """The trace of the base config with some changes; each is made once."""
    return functools.cache(lambda *changes: trace(changed(dict(changes)), tmp_path_factory.mktemp("run")))


@pytest.mark.slow
@pytest.mark.parametrize("key", OTHER)
def test_another_value_changes_something(key, trace_of):
    beside = TOGETHER.get(key, {})
    before = {} if key in ("data.name", "model.outputs") else beside  # these two go together only
    assert trace_of(*(beside | {key: OTHER[key]}).items()) != trace_of(*before.items())


@pytest.mark.slow
def test_steps_per_call_leaves_no_trace(tmp_path):
    same = replace(BASE, run=replace(BASE.run, checkpoint_seconds=1e6))
    other = replace(same, run=replace(same.run, steps_per_call=100))
    assert trace(same, tmp_path / "a") == trace(other, tmp_path / "b")
