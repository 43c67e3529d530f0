"""Every key of a config that is accepted changes something: the data, the model, or what training leaves."""

import functools
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxbp import config as configuration
from jaxbp import data, models, optim
from jaxbp.credit import Relaxer
from jaxbp.data import (
    Adding,
    Characters,
    Curve,
    Embedded,
    Encoder,
    Function,
    Logic,
    Plane,
    Reber,
    Reconstruction,
    Rows,
    TemporalXor,
    Text,
    Tokens,
    Tones,
    WrongLabels,
)
from jaxbp.losses import Penalty, SoftmaxCrossEntropy
from jaxbp.models import CNN, GPT, MLP, RNN, TDNN, FeedbackMLP, LayerModel, ResNet, TransformerEncoder, ViT
from jaxbp.training.loop import train
from jaxbp.training.run import fingerprint
from tests.support.runs import weights

RAW = tempfile.NamedTemporaryFile(suffix=".bin")  # noqa: SIM115  of token ids; it goes with the module
RAW.write(bytes(20_000))
RAW.flush()
BASE = configuration.Config(
    data=Embedded("wine", scaling="standard", validation_fraction=0.2),
    model=MLP(outputs=3, hidden=(8,), dropout=0.1),
    loss=SoftmaxCrossEntropy(),
    optimizer=optim.AdamW(schedule=optim.Cosine(warmup=0.2)),
    run=configuration.Run(epochs=4, batch_size=16, steps_per_call=3, checkpoint_seconds=1e6, patience=10),
    penalty=Penalty(l2=1e-3),
)
OTHER = {  # key: another value, which must change what training leaves
    "loss.label_smoothing": 0.1,
    "loss.z_loss": 0.1,
    "loss.chunk": 4,
    "optimizer.learning_rate": 0.01,
    "optimizer.b1": 0.8,
    "optimizer.b2": 0.9,
    "optimizer.eps": 0.1,
    "optimizer.weight_decay": 0.5,
    "optimizer.schedule.warmup": 0.5,
    "optimizer.schedule.final": 0.5,
    "optimizer.clip_norm": 0.01,
    "optimizer.clip_value": 0.001,
    "optimizer.groups": (optim.Group(".*", learning_rate_factor=0.5),),
    "optimizer.plateau": optim.Plateau(steps=1, factor=0.5, patience=1),
    "optimizer.private": optim.Private(),
    "run.epochs": 5,
    "run.batch_size": 8,
    "run.seed": 1,
    "run.shuffle": False,
    "run.evaluate_every": 2,
    "run.micro_batches": 2,
    "run.patience": 1,
    "run.checkpoint_seconds": 0.0,
    "run.keep_checkpoints": 3,
    "run.noise_scale_every": 5,
    "run.dtype": "bfloat16",
    "penalty.l2": 0.1,
    "penalty.l1": 0.1,
    "penalty.paths": ".*",
}
TOGETHER = {
    "run.patience": {"optimizer.learning_rate": 0.3, "run.epochs": 20},
    "run.keep_checkpoints": {"run.checkpoint_seconds": 0.0},
}
NO_TRACE = {  # keys that leave no trace, on purpose
    "run.steps_per_call": "results must not depend on it; only the speed does",
    "run.sample_every": "only runs on text have samples; tests/training/test_samples.py",
    "run.health_every": "a run is the same with it; tests/training/test_health.py",
    "run.profile_step": "a trace stands beside the run; tests/training/test_writers.py",
    "run.writers": "figures go to other places; tests/training/test_writers.py",
    "run.mesh.data": "losses must not depend on the devices; tests/devices",
    "run.mesh.fsdp": "losses must not depend on the devices; tests/devices",
    "run.mesh.tensor": "losses must not depend on the devices; tests/devices",
    "run.stop_at_loss": "a run only ends sooner; tests/training/test_what_a_run_says.py",
    "run.keep_programs": "programs come from the cache or are compiled anew; tests/commands/test_programs.py",
}
TRANSFORMER = {
    "outputs": 4,
    "width": 64,
    "depth": 2,
    "heads": 2,
    "context": 64,
    "positions": "rotary",
    "norm": "after",
    "gelu": "tanh",
    "dropout": 0.2,
    "keep": "inverse",
}
MODELS = {  # model: its keys' other values, each of which must change a layer
    LayerModel("Dense(3)"): {"layer": "Dense(4)"},
    MLP(outputs=3, hidden=(8,), dropout=0.1): {
        "outputs": 4,
        "hidden": (9,),
        "activation": "tanh",
        "output_activation": "tanh",
        "dropout": 0.5,
        "w_init": "glorot_normal",
        "b_init": "ones",
    },
    CNN(outputs=3, hidden=(8,), dropout=0.1): {
        "outputs": 4,
        "hidden": (9,),
        "activation": "tanh",
        "output_activation": "tanh",
        "dropout": 0.5,
        "w_init": "glorot_normal",
        "b_init": "ones",
        "channels": (32, 65),
        "kernel": 3,
        "padding": (0, 1),
        "pooling": "average",
        "window": 3,
    },
    ResNet(outputs=3): {"outputs": 4, "channels": (16, 32), "blocks": 2, "momentum": 0.5},
    RNN(outputs=3, dropout=0.1): {
        "outputs": 4,
        "hidden": (128, 128),
        "cell": "gru",
        "embedding": 5,
        "output": "last",
        "carry": True,
        "keep": "sqrt",
        "truncate": 5,
        "dropout": 0.5,
        "wh_init": "glorot_normal",
    },
    GPT(outputs=3, dropout=0.1): TRANSFORMER | {"head": "tied"},
    TransformerEncoder(outputs=3, dropout=0.1): TRANSFORMER | {"classes": 5, "pooling": "token"},
    ViT(outputs=3, dropout=0.1): TRANSFORMER | {"pooling": "token", "patch": 2},
    TDNN(outputs=3): {"outputs": 4, "taps": 3, "hidden": (9,), "activation": "relu"},
    FeedbackMLP(outputs=3): {
        "outputs": 4,
        "hidden": (9,),
        "feedback": 0.5,
        "activation": "tanh",
        "relaxer": Relaxer("ode"),
    },
}
DATA = {  # data set: its keys' other values, each of which must change a part or its batches
    Embedded("digits", image=True, scaling="standard", validation_fraction=0.2, shift=1): {
        "name": "iris",
        "validation_fraction": 0.3,
        "test_fraction": 0.3,
        "scaling": "min_max",
        "seed": 1,
        "image": False,
        "one_hot": True,
        "shift": 2,
        "rotation": 5.0,
    },
    Embedded("diabetes"): {"scale_targets": True},
    Function("sine"): {
        "name": "sinc",
        "examples": 100,
        "low": -1.0,
        "high": 1.0,
        "noise": 0.1,
        "test_fraction": 0.3,
        "validation_fraction": 0.3,
        "scaling": "min_max",
        "scale_targets": True,
        "seed": 1,
    },
    Plane("moons"): {
        "name": "circles",
        "examples": 100,
        "noise": 0.2,
        "test_fraction": 0.3,
        "validation_fraction": 0.3,
        "scaling": "min_max",
        "one_hot": True,
        "seed": 1,
    },
    Logic("xor"): {"operator": "and"},
    Characters(): {"noise": 0.2, "copies": 5, "one_hot": True, "seed": 1},
    Text(size=5000): {"path": __file__, "size": 6000, "length": 64, "test_fraction": 0.2, "streams": 3},
    Tokens(): {
        "path": RAW.name,
        "test_path": RAW.name,
        "length": 64,
        "vocabulary": 300,
        "windows": 100,
        "test_fraction": 0.2,
        "test_windows": 100,
    },
    Reber(examples=50, test_examples=20): {"embedded": False, "examples": 51, "test_examples": 21, "seed": 1},
    Adding(examples=50, test_examples=20): {"length": 50, "examples": 51, "test_examples": 21, "seed": 1},
    TemporalXor(examples=5, test_examples=3): {"length": 50, "examples": 6, "test_examples": 4, "seed": 1},
    Tones(examples=5, test_examples=3): {
        "tones": 5,
        "length": 50,
        "noise": 0.1,
        "examples": 6,
        "test_examples": 4,
        "seed": 1,
    },
    WrongLabels(Embedded("wine"), 0.2): {"data": Embedded("iris"), "share": 0.3, "seed": 1},
    Encoder(): {"size": 7},
    Rows(((0.0, 1.0), (2.0, 3.0)), ((0.0,), (1.0,)), ("a", "b")): {
        "x": ((0.0, 1.0), (2.0, 4.0)),
        "y": ((1.0,), (0.0,)),
        "classes": (),
    },
    Reconstruction(Embedded("wine")): {"data": Embedded("iris")},
    Curve(examples=50, test_examples=20): {
        "name": "eight",
        "length": 50,
        "period": 30.0,
        "noise": 0.1,
        "examples": 51,
        "test_examples": 21,
        "seed": 1,
    },
}
BESIDE = {
    ("Embedded", "name"): {"image": False, "shift": 0},
    ("Embedded", "image"): {"shift": 0},
    ("Tokens", "path"): {"vocabulary": 256},
}
exported = (getattr(data, name) for name in data.__all__)
CONFIGS = {
    c.__name__: c
    for c in exported
    if isinstance(c, type)
    and issubclass(c, data.DataConfig)
    and c not in (data.DataConfig, data.FromFiles, data.FromMap, data.Movable, data.Prepared, data.Streamed)
    and c not in (data.Table, data.Tabular)
}
OF_FILES = {
    "Csv",
    "Frame",
    "Parquet",
    "Npz",
    "Idx",
    "Images",
    "Mnist",
    "ArrayFiles",
    "HuggingFace",
    "ImageFiles",
}  # need a path: test_data_files.py, test_data_idx.py, test_sources.py
each_key = lambda table: pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        pytest.param(base, key, value, id=f"{type(base).__name__}.{key}")
        for base, others in table.items()
        for key, value in others.items()
    ],
)


def changed(changes):
    return configuration.replace_keys(BASE, changes)


def trace(config, folder: Path):
    """All that a run leaves: weights, metrics, and the names of its checkpoints."""
    train(config, folder)
    checkpoints = tuple(sorted(path.name for path in (folder / "checkpoints").iterdir()))
    return weights(folder), (folder / "metrics.jsonl").read_bytes(), checkpoints


def test_every_key_is_in_a_table():
    in_files_only = {"optimizer.groups", "optimizer.plateau", "optimizer.private"}
    keys = {key for key, _ in configuration.keys(BASE) if not key.startswith(("data.", "model."))}
    assert keys | in_files_only == OTHER.keys() | NO_TRACE.keys()
    names = lambda config: {field.name for field in fields(config) if field.init}
    shipped = {name: names(c) for name, c in vars(models).items() if isinstance(c, type) and name != "ModelConfig"}
    assert tabled(MODELS) == shipped
    refused = {
        "Function": {"one_hot"},
        "Plane": {"scale_targets"},
        "Text": {"max_bytes"},
    }  # of no classes, targets, file
    assert tabled(DATA) == {
        name: names(c) - refused.get(name, set()) for name, c in CONFIGS.items() if name not in OF_FILES
    }


def tabled(table):
    """Class name: the keys that its rows of the table have."""
    return {type(base).__name__: set().union(*(o for b, o in table.items() if type(b) is type(base))) for base in table}


@each_key(MODELS)
def test_a_key_of_a_model_changes_a_layer(base, key, value):
    assert replace(base, **{key: value}).build() != base.build()


@each_key(DATA)
def test_a_key_of_the_data_changes_a_part_or_its_batches(base, key, value):
    beside = BESIDE.get((type(base).__name__, key), {})
    assert seen(replace(base, **beside | {key: value})) != seen(replace(base, **beside))


def seen(data):
    """All that training sees of the data."""
    splits = data.load()
    return fingerprint(splits), data.augment(jax.random.key(0), jnp.asarray(splits.train.x[:2])).tobytes()


@pytest.fixture(scope="module")
def trace_of(tmp_path_factory):
    """The trace of the base config with some changes; each is made once."""
    return functools.cache(lambda *changes: trace(changed(dict(changes)), tmp_path_factory.mktemp("run")))


@pytest.mark.slow
@pytest.mark.parametrize("key", OTHER)
def test_another_value_changes_something(key, trace_of):
    beside = TOGETHER.get(key, {})
    assert trace_of(*(beside | {key: OTHER[key]}).items()) != trace_of(*beside.items())


@pytest.mark.slow
def test_steps_per_call_leaves_no_trace(tmp_path):
    other = replace(BASE, run=replace(BASE.run, steps_per_call=100))
    assert trace(BASE, tmp_path / "a") == trace(other, tmp_path / "b")
