"""Configuration: every config file as JSON and back, overrides, and a clear line for a misspelt key."""

import dataclasses
import functools
import json
import random
import re
import string
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbp import InputError, SquaredError
from jaxbp.config import Config, Run, from_json, keys, load, override, to_json
from jaxbp.data import Logic
from jaxbp.losses import BinaryCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import SGD, Adam, Constant, Cosine
from jaxbp.typed import spell
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("configs/*.py"))
EVERY = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
laws = settings(max_examples=50, deadline=None)
loaded = functools.cache(load)
XOR = Config(Logic("xor"), MLP(1, (4, 3)), BinaryCrossEntropy(), SGD(0.1), Run(2, seed=3))


def refused(config, *words):
    """The one line that these overrides end in."""
    with pytest.raises(InputError) as error:
        override(config, [f"--config.{word}" for word in words])
    return one_line(error)


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def get(config, key):
    return functools.reduce(getattr, key.split("."), config)


# --- JSON ------------------------------------------------------------------------------------------------------------


@EVERY
def test_every_config_file_survives_json(path):
    config = loaded(path)
    data = json.loads(json.dumps(to_json(config)))
    assert from_json(data) == config
    assert to_json(from_json(data)) == to_json(config)


def test_json_names_the_types():
    data = to_json(dataclasses.replace(XOR, optimizer=Adam(schedule=Cosine(warmup=0.5))))
    assert (data["type"], data["model"]["type"], data["optimizer"]["schedule"]["type"]) == ("Config", "MLP", "Cosine")
    assert data["optimizer"]["schedule"]["warmup"] == 0.5
    mesh = {"type": "MeshShape"} | dataclasses.asdict(XOR.run.mesh)
    assert data["run"] == {"type": "Run"} | dataclasses.asdict(XOR.run) | {"mesh": mesh}


@pytest.mark.parametrize(
    ("part", "key", "value", "text"),
    [
        ("optimizer", "type", "SDG", "unknown OptimizerConfig 'SDG'; did you mean 'SGD'"),
        ("optimizer", "type", "MLP", "unknown OptimizerConfig 'MLP'"),
        ("loss", "type", "BinaryCrosEntropy", "unknown Loss 'BinaryCrosEntropy'; did you mean 'BinaryCrossEntropy'"),
        ("run", "epoch", 3, "unknown key of Run 'epoch'; did you mean 'epochs'"),
        ("run", "epochs", 0, "epochs must be an integer of at least 1, got 0"),
    ],
)
def test_json_that_is_no_config(part, key, value, text):
    data = to_json(XOR)
    data[part][key] = value
    with pytest.raises(InputError, match=re.escape(text)) as error:
        from_json(data)
    one_line(error)


# --- Keys ------------------------------------------------------------------------------------------------------------


@EVERY
def test_every_key_is_a_leaf_and_takes_its_own_value(path):
    config = loaded(path)
    names = [key for key, _ in keys(config)]
    assert len(names) == len(set(names))
    parts = {field.name for field in dataclasses.fields(config) if dataclasses.fields(getattr(config, field.name))}
    assert {key.partition(".")[0] for key in names} == parts  # backpropagation has no keys
    assert not any(dataclasses.is_dataclass(get(config, key)) for key in names)
    spell = lambda value: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    words = [f"--config.{key}={spell(get(config, key))}" for key in names if key != "penalty.paths"]
    assert override(config, words) == config


def edits(key):
    """Misspellings: every deletion and every swap of neighbours, and some insertions and substitutions."""
    choose, letters, places = random.Random(key), string.ascii_lowercase + "_", range(len(key))
    deleted = {key[:i] + key[i + 1 :] for i in places}
    swapped = {key[:i] + key[i + 1] + key[i] + key[i + 2 :] for i in places[:-1]}
    inserted = {key[:i] + choose.choice(letters) + key[i:] for i in choose.sample(places, 3)}
    changed = {key[:i] + choose.choice(letters) + key[i + 1 :] for i in choose.sample(places, 3)}
    return sorted(deleted | swapped | inserted | changed)


ALL_KEYS = {key: (path, kind) for path in FILES for key, kind in keys(load(path))}
SETS = {tuple(key for key, _ in keys(load(path))): path for path in FILES}  # one config for each set of keys


@pytest.mark.parametrize("most", [10, pytest.param(None, marks=pytest.mark.nightly)], ids=["few", "all"])
@pytest.mark.parametrize("names", SETS, ids=lambda names: SETS[names].stem)
def test_a_misspelt_key_is_refused_and_the_right_one_named(names, most):
    """At least 95 of 100 times; the others lie as near to another key, as b is to b1 and b2.

    Every edit (or `most` of them) is tried in one config that has the key, and two of them in the others.
    """
    config, misled, count = loaded(SETS[names]), [], 0
    for key in names:
        tried = random.Random(key).sample(edits(key), len(edits(key)))[: most if ALL_KEYS[key][0] == SETS[names] else 2]
        for edit in sorted(set(tried) - set(names)):
            text = refused(config, f"{edit}=1")
            assert text.startswith(f"unknown option '--config.{edit}'")
            near = re.search(r"did you mean '--config\.(.*?)'\?", text)
            count += 1
            if not near or near[1] != key:
                misled.append(f"{edit} for {key}: {near and near[1]}")
    print("\n".join(misled))
    assert len(misled) <= 0.05 * count


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--config.optimizer.learning-rate=1", "optimizer.learning_rate"),
        ("--config.run.batch-size=1", "run.batch_size"),
        ("--config.run.Epochs=1", "run.epochs"),
        ("--config.epochs=1", "run.epochs"),
        ("--run.epochs=1", "run.epochs"),
        ("-config.run.epochs=1", "run.epochs"),
        ("config.run.epochs=1", "run.epochs"),
        ("--confg.run.epochs=1", "run.epochs"),
        ("--config.model.run.epochs=1", "run.epochs"),
        ("--config.optimizer_learning_rate=1", "optimizer.learning_rate"),
        ("--config.run.epochs =1", "run.epochs"),
    ],
)
def test_other_misspellings(word, nearest):
    with pytest.raises(InputError, match=f"unknown option .*; did you mean '--config.{nearest}'") as error:
        override(XOR, [word])
    one_line(error)


def test_a_word_like_no_key_lists_them_all():
    with pytest.raises(InputError) as error:
        override(XOR, ["zzz"])
    assert all(f"--config.{key}" in one_line(error) for key, _ in keys(XOR))


@pytest.mark.parametrize("word", ["--config.run=1", "--config.penalty=1", "--config.=1", "--config", "epochs", ""])
def test_what_is_no_key(word):
    with pytest.raises(InputError, match="unknown option") as error:
        override(XOR, [word])
    one_line(error)


def test_a_key_without_a_value():
    assert refused(XOR, "run.epochs") == "--config.run.epochs needs a value: --config.run.epochs=VALUE"


def test_a_key_given_twice():
    assert refused(XOR, "run.epochs=3", "model.outputs=1", "run.epochs=3") == "--config.run.epochs is given twice"


# --- Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.hidden", "512,256", (512, 256)),
        ("model.hidden", "512", (512,)),
        ("model.hidden", "(512,)", (512,)),
        ("model.hidden", "(512, 256)", (512, 256)),
        ("model.hidden", "", ()),
        ("model.hidden", "()", ()),
        ("run.batch_size", "None", None),
        ("run.batch_size", "7", 7),
        ("run.shuffle", "False", False),
        ("run.shuffle", "True", True),
        ("optimizer.learning_rate", "3", 3.0),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("loss.label_smoothing", ".5", 0.5),
        ("data.operator", "a_and_not_b", "a_and_not_b"),
    ],
)
def test_values_by_type(key, text, value):
    changed = override(XOR, [f"--config.{key}={text}"])
    assert get(changed, key) == value
    assert type(get(changed, key)) is type(value)
    assert override(changed, [f"--config.{key}={get(XOR, key)}".replace("'", "")]) == XOR, "nothing else has changed"


@pytest.mark.parametrize("text", [".*/w|.*/b", "a=b", "a b", "(a,b)", "-h", "-x.*", "--config.run.epochs=3"])
def test_a_text_may_hold_anything(text):
    assert override(XOR, [f"--config.penalty.paths={text}", "--config.penalty.l2=1"]).penalty.paths == text


def test_no_override_changes_nothing():
    assert override(XOR, []) == XOR


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer.momentum=0.9", "optimizer.nesterov=True"),
        ("penalty.l2=0.1", "penalty.paths=.*"),
        ("penalty.l1=0.1", "run.epochs=7"),
    ],
)
def test_overrides_are_applied_at_once(words):
    """In either order, also where one alone would be impossible."""
    words = [f"--config.{word}" for word in words]
    assert override(XOR, words) == override(XOR, words[::-1]) != XOR
    assert override(XOR, words).run.seed == 3


@laws
@given(
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.integers(1),
    st.lists(st.integers(1), max_size=4),
    st.none() | st.integers(1),
    st.booleans(),
)
def test_a_value_that_is_printed_is_read_back(rate, epochs, hidden, batch_size, shuffle):
    words = [
        f"optimizer.learning_rate={rate!r}",
        f"run.epochs={epochs}",
        f"model.hidden={tuple(hidden)}",
        f"run.batch_size={batch_size}",
        f"run.shuffle={shuffle}",
    ]
    config = override(XOR, [f"--config.{word}" for word in words])
    assert (config.optimizer.learning_rate, config.run.epochs, config.model.hidden) == (rate, epochs, tuple(hidden))
    assert (config.run.batch_size, config.run.shuffle) == (batch_size, shuffle)


# --- Wrong types -----------------------------------------------------------------------------------------------------

WRONG = {
    int: ["x", "1.5", "1e3", "", "1,2"],
    float: ["x", "1,0", "", "0x10", "nan", "inf", "-inf"],
    bool: ["x", "yes", "1", "", "None"],
    str: [],
    tuple: ["x", "512,x", "1.5", "512;256", "None"],
    Literal: ["x", "", "None"],
}


def kind_of(annotation):
    """int of Count | None, tuple of tuple[Count, ...], and so on."""
    if get_origin(annotation) in (tuple, Literal):
        return get_origin(annotation)
    return kind_of(get_args(annotation)[0]) if get_args(annotation) else annotation


def test_a_value_of_a_wrong_type_names_key_value_and_what_is_allowed():
    """One key of every type: a type is all that the reading of a value depends on."""
    one_of_each = {kind: (key, path) for key, (path, kind) in ALL_KEYS.items()}
    assert {kind_of(kind) for kind in one_of_each} == WRONG.keys()
    for kind, (key, path) in one_of_each.items():
        if key not in ("data.target", "data.features", "data.exclude", "data.categories"):  # which may be texts
            for text in WRONG[kind_of(kind)]:
                assert refused(loaded(path), f"{key}={text}") == f"--config.{key} must be {spell(kind)}, got '{text}'"


@pytest.mark.parametrize("key", ["run.epochs", "run.shuffle", "data.operator", "model.activation", "model.w_init", "x"])
def test_a_value_of_two_lines_is_refused_in_one(key):
    refused(XOR, f"{key}=a\nb")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Run(2, seed=1.5), "Run: seed must be an integer in [0, 4294967295], got 1.5"),
        (lambda: Run(2, seed=True), "Run: seed must be an integer in [0, 4294967295], got True"),
        (lambda: Run(2, batch_size=2.5), "Run: batch_size must be an integer of at least 1 or None, got 2.5"),
        (lambda: Run(2, shuffle=1), "Run: shuffle must be True or False, got 1"),
        (lambda: dataclasses.replace(XOR, run=None), "Config: run must be Run, got None"),
        (lambda: MLP(1, [0]), "MLP: hidden must be a tuple of integers of at least 1, got (0,)"),
        (lambda: MLP(1, (4, 2.5)), "MLP: hidden must be a tuple of integers of at least 1, got (4, 2.5)"),
        (
            lambda: dataclasses.replace(XOR, optimizer=SquaredError()),
            "Config: optimizer must be OptimizerConfig, got SquaredError(scale='half_sum')",
        ),
        (lambda: SGD(0.1, momentum=False), "SGD: momentum must be a finite number in [0, 1), got False"),
        (lambda: SGD(0.1, schedule="cosine"), "SGD: schedule must be Schedule, got 'cosine'"),
        (lambda: SquaredError("halfsum"), "unknown SquaredError scale 'halfsum'; did you mean 'half_sum'?"),
        (lambda: SquaredError(2), "SquaredError: scale must be one of 'half_sum', 'sum', 'mean', got 2"),
    ],
)
def test_wrong_types_in_python(make, text):
    with pytest.raises(InputError, match=re.escape(text)) as error:
        make()
    one_line(error)


def test_a_list_is_a_tuple():
    assert MLP(1, [4]) == MLP(1, (4,))
    assert hash(MLP(1, [4])) == hash(MLP(1, (4,)))


def test_what_fits_is_accepted():
    """A whole number where a number is asked, None where it is allowed, any schedule."""
    for optimizer in (SGD(1), SGD(0.1, Constant()), Adam(schedule=Cosine())):
        dataclasses.replace(XOR, optimizer=optimizer, run=Run(2, batch_size=None))


# --- Impossible values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("run.epochs", "0", "at least 1"),
        ("run.batch_size", "0", "at least 1"),
        ("run.evaluate_every", "0", "at least 1"),
        ("run.steps_per_call", "-3", "at least 1"),
        ("run.seed", "-1", "0"),
        ("run.seed", "9" * 23, "0"),
        ("model.outputs", "0", "at least 1"),
        ("model.hidden", "5,0", "at least 1"),
        ("model.dropout", "1.0", "[0, 1)"),
        ("model.activation", "rleu", "'relu'"),
        ("model.output_activation", "sigmod", "'sigmoid'"),
        ("model.w_init", "he_norml", "'he_normal'"),
        ("model.b_init", "zero", "'zeros'"),
        ("loss.label_smoothing", "1.0", "[0, 1)"),
        ("optimizer.learning_rate", "0.0", "above 0"),
        ("optimizer.momentum", "1.0", "[0, 1)"),
        ("optimizer.nesterov", "True", "False where momentum is 0"),
        ("penalty.l2", "-0.5", "at least 0"),
        ("penalty.l1", "-0.5", "at least 0"),
        ("penalty.paths", ".*/b", "l2 and l1 are 0"),
    ],
)
def test_values_out_of_range(key, value, allowed):
    text = refused(XOR, f"{key}={value}")
    assert allowed in text
    assert value.split(",")[-1] in text


# --- Equality --------------------------------------------------------------------------------------------------------


def test_no_two_values_are_mistaken_for_each_other():
    """Configs that differ in one key differ, and so does their JSON."""
    changed = [override(XOR, [f"--config.{word}"]) for word in ("run.seed=4", "model.hidden=4", "run.batch_size=None")]
    assert len({XOR, *changed}) == 4
    assert len({json.dumps(to_json(c)) for c in (XOR, *changed)}) == 4


def test_a_config_from_json_is_hashable_and_has_the_same_hash():
    assert hash(from_json(json.loads(json.dumps(to_json(XOR))))) == hash(XOR)
