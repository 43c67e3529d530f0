"""Kinds of configs by name on the command line: what they keep, what they need, and what a wrong one is told."""

import functools
import itertools
import re

import pytest

from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import from_json, kinds_of, load, override, show_help, to_json
from jaxbp.errors import InputError
from jaxbp.losses import SquaredError
from jaxbp.models import CNN
from jaxbp.optim import KFAC, SGD, Adam, AdamW, Constant, Cosine, Plateau
from jaxbp.training.folder import RunFolder
from jaxbp.typed import Typed, field_types, fits

DIGITS = EXPERIMENTS["digits_mlp"]
NEEDED = {  # words of what a kind cannot be without
    "ArrayFiles": ["train_x=x.npy", "train_y=y.npy"],
    "Csv": ["path=x.csv"],
    "Curve": ["name=eight"],
    "Fold": ["data=Embedded", "data.name=wine", "index=0", "folds=2"],
    "Frame": ["frame=0"],
    "Function": ["name=sine"],
    "HuggingFace": ["path=x"],
    "Idx": [f"{part}_{kind}=x" for part in ("train", "test") for kind in ("images", "labels")],
    "ImageFiles": ["path=x"],
    "Images": ["path=x"],
    "Npz": ["path=x.npz"],
    "Optax": ["name=lion"],
    "Plane": ["name=moons"],
    "OptaxSchedule": ["name=constant_schedule"],
    "Reconstruction": ["data=Logic", "data.operator=xor"],
    "LayerModel": ["layer=Dense(10)"],
    "Logic": ["operator=xor"],
    "Parquet": ["path=x.parquet"],
    "Rows": ["x=0,1;1,0", "y=0;1"],
    "WrongLabels": ["data=Logic", "data.operator=xor", "share=0.5"],
}
FIELDS = ("data", "model", "loss", "optimizer", "optimizer.schedule", "optimizer.plateau", "optimizer.private")


def changed(*words):
    """The digits' config with these words, each without its --config."""
    return override(DIGITS, [f"--config.{word}" for word in words])


def refused(*words):
    """The one line that these words end in."""
    with pytest.raises(InputError) as error:
        changed(*words)
    assert "\n" not in str(error.value)
    return str(error.value)


def get(config, key):
    return functools.reduce(getattr, key.split("."), config)


def kinds(field):
    """The kinds that jaxbp ships for a field of the digits' config."""
    *parents, name = field.split(".")
    owner = functools.reduce(getattr, parents, DIGITS)
    return {
        kind: cls
        for kind, cls in kinds_of(field_types(type(owner))[name]).items()
        if cls and cls.__module__.startswith("jaxbp.")
    }


@pytest.mark.parametrize("field", FIELDS)
def test_every_kind_keeps_what_it_has_too(field):
    old = get(DIGITS, field)
    for kind, cls in kinds(field).items():
        config = changed(f"{field}={kind}", *(f"{field}.{word}" for word in NEEDED.get(kind, ())))
        new = get(config, field)
        assert type(new) is cls
        given = {word.partition("=")[0] for word in NEEDED.get(kind, ())}
        shared = [
            name for name in field_types(cls).keys() - given if fits(getattr(old, name, ...), field_types(cls)[name])
        ]
        assert [getattr(new, name) for name in shared] == [getattr(old, name) for name in shared]
        assert from_json(to_json(config)) == config
        others = {other: get(DIGITS, other) for other in FIELDS if not other.startswith(field)}
        assert all(get(config, other) == value for other, value in others.items() if not field.startswith(other))


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer=SGD", "optimizer.momentum=0.9", "optimizer.nesterov=True"),
        ("optimizer.schedule=Constant", "optimizer=SGD"),
        ("optimizer=KFAC", "model=CNN", "model.channels=8", "model.padding=2"),
        ("data=Reconstruction", "data.data=Embedded", "data.data.name=wine"),
        ("optimizer.plateau=Plateau", "optimizer.plateau.factor=0.5"),
    ],
    ids=" ".join,
)
def test_kinds_come_before_keys_in_any_order(words):
    orders = {changed(*order) for order in itertools.permutations(words)}
    assert len(orders) == 1
    assert orders != {DIGITS}


def test_kinds_and_their_keys():
    assert changed("optimizer=SGD", "optimizer.momentum=0.9").optimizer == SGD(3e-3, Cosine(0.05), momentum=0.9)
    assert changed("optimizer=Adam").optimizer == Adam(3e-3, Cosine(0.05))
    assert changed("optimizer.schedule=Constant").optimizer == AdamW(3e-3, Constant())
    assert changed("optimizer=KFAC").optimizer == KFAC()
    assert changed("loss=SquaredError", "loss.scale=mean").loss == SquaredError("mean")
    assert changed("model=CNN").model == CNN(10, (256, 256), dropout=0.3)
    assert changed("optimizer=AdamW", "model=MLP", "data=Embedded") == DIGITS


def test_a_kind_where_there_is_none_yet():
    plateau = changed("optimizer.plateau=Plateau", "optimizer.plateau.factor=0.5")
    assert plateau.optimizer.plateau == Plateau(factor=0.5)
    for word in ("none", "None", "NONE"):
        assert override(plateau, [f"--config.optimizer.plateau={word}"]) == DIGITS


def test_a_value_that_the_new_kind_cannot_have_is_not_kept():
    """The name of a data set is none of a function."""
    assert "needs --config.data.name=VALUE too" in refused("data=Function")
    assert changed("data=Function", "data.name=sine").data.scaling == "min_max"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data=Csv"], "--config.data=Csv needs --config.data.path=VALUE too"),
        (["data=Reconstruction"], "--config.data=Reconstruction needs --config.data.data=VALUE too"),
        (["data=Reconstruction", "data.data=Csv"], "--config.data.data=Csv needs --config.data.data.path=VALUE too"),
        (["data=Idx"], "--config.data.train_images=VALUE, --config.data.train_labels=VALUE"),
        (["optimizer=Optax"], "--config.optimizer=Optax needs --config.optimizer.name=VALUE too"),
        (["optimizer=Adm"], "unknown --config.optimizer 'Adm'; did you mean 'Adam'?"),
        (["optimizer=MLP"], "unknown --config.optimizer 'MLP'"),
        (["optimizer=none"], "unknown --config.optimizer 'none'"),
        (["optimizer"], "--config.optimizer needs a value"),
        (["optimizer=SGD", "optimizer=SGD"], "--config.optimizer is given twice"),
        (["optimizer=SGD", "optimizer.momentum=2"], "--config.optimizer.momentum must be a finite number in [0, 1)"),
        (["optimizer=SGD", "optimizer.nesterov=1"], "--config.optimizer.nesterov must be True or False, got '1'"),
        (["optimizer=SGD", "optimizer.nesterov=True"], "--config.optimizer: SGD: nesterov must be False"),
        (
            ["optimizer.plateau=Plateau", "optimizer.plateau.factr=1"],
            "did you mean '--config.optimizer.plateau.factor'?",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be(words, line):
    assert line in refused(*words)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("optimizer.momentum=0.9", "AdamW has no momentum; "),
        ("optimizer.damping=1", ", GaussNewton, KFAC, LevenbergMarquardt, NaturalGradient, Newton have: "),
        ("optimizer.plateau.factor=0.5", "None has no factor; Plateau has: --config.optimizer.plateau=Plateau"),
        ("optimizer.schedule.arguments=a", "Cosine has no arguments; OptaxSchedule has: --config.optimizer.schedule="),
        ("model.cell=gru", "MLP has no cell; RNN has: --config.model=RNN"),
        ("loss.width=2", "SoftmaxCrossEntropy has no width; Huber has: --config.loss=Huber"),
        ("data.path=x", "Embedded has no path; Csv, "),
    ],
)
def test_a_key_of_another_kind_says_which_has_it(word, line):
    text = refused(word)
    assert text.startswith(f"unknown option '--config.{word.partition('=')[0]}': ")
    assert line in text
    assert re.search(r"[;,] (Csv|SGD|KFAC|Plateau|OptaxSchedule|RNN|Huber)\b.* ha(s|ve): --config\.", text)


def test_a_key_below_a_key_of_another_kind_says_which_has_it():
    assert "KFAC has no schedule; Adam, AdamW, " in refused("optimizer=KFAC", "optimizer.schedule.warmup=0.1")


def test_kinds_of_a_config_file_are_kinds(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("""
from dataclasses import dataclass
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.models import MLP

@dataclass(frozen=True)
class Wider(MLP):
    times: int = 2

def get_config():
    return EXPERIMENTS["digits_mlp"]
""")
    config = override(load(path), ["--config.model=Wider", "--config.model.times=3"])
    assert (type(config.model).__name__, config.model.times, config.model.hidden) == ("Wider", 3, (256, 256))
    assert from_json(to_json(config)) == config


def test_help_shows_the_kinds(capsys):
    show_help(changed("optimizer.schedule=Constant"))
    entries = {entry.split()[0]: " ".join(entry.split()) for entry in capsys.readouterr().out.split("--config.")[1:]}
    for field in FIELDS:
        listed = entries[field].rpartition("one of ")[2].split(", ")
        assert kinds(field).keys() <= set(listed)
    assert "(default: Constant)" in entries["optimizer.schedule"]
    assert "(default: None)" in entries["optimizer.plateau"]
    assert entries["optimizer.plateau"].endswith("one of Plateau, none")
    assert "optimizer.schedule.warmup" not in entries
    assert "run" not in entries, "there is one kind of run"


def test_a_run_is_resumed_with_the_kinds_that_it_has(tmp_path):
    folder = RunFolder(tmp_path)
    config = changed("optimizer=SGD", "optimizer.schedule=Constant", "model=CNN")
    folder.write(config, config.data.load().preparation, None)
    assert folder.config() == config
    folder.check(config)
    with pytest.raises(InputError, match=r"optimizer\.type was SGD and is AdamW"):
        folder.check(DIGITS)
    with pytest.raises(InputError, match=r"optimizer\.schedule\.type was Constant and is Cosine"):
        folder.check(override(config, ["--config.optimizer.schedule=Cosine"]))


def test_a_field_without_a_choice_has_no_kinds():
    assert kinds_of(field_types(type(DIGITS))["run"]) == {}
    assert kinds_of(field_types(AdamW)["groups"]) == {}
    assert kinds_of(field_types(AdamW)["learning_rate"]) == {}


def test_a_base_is_no_kind():
    """A class that leaves a method open: Prepared, FirstOrder, ModelConfig."""
    for field in FIELDS:
        assert kinds(field).keys() & {cls.__name__ for cls in Typed.__subclasses__()} <= {"Plateau", "Private"}
    assert not {"Prepared", "Tabular", "Movable"} & kinds("data").keys()
    assert "unknown --config.optimizer 'FirstOrder'" in refused("optimizer=FirstOrder")
    with pytest.raises(InputError, match="unknown ModelConfig 'ModelConfig'"):
        from_json(to_json(DIGITS) | {"model": {"type": "ModelConfig"}})
