"""Numbers at their limits: masks of zeros, data that do not fit a run, names with markup in pictures."""

import copy
import json
import random
from contextlib import suppress
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import config as configuration
from jaxbp.commands.__main__ import main
from jaxbp.commands.experiments import EXPERIMENTS
from jaxbp.config import from_json, to_json
from jaxbp.core import Context
from jaxbp.data import Adding, Curve, Dataset, Embedded, Encoder, Function, Splits
from jaxbp.errors import InputError
from jaxbp.layers import Dense
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN, RNN, ResNet
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.fit import check_data, check_fit
from jaxbp.training.loop import train
from jaxbp.training.report import deltas, pictures, scores
from jaxbp.training.report.attention import draw_attention
from jaxbp.training.run import load
from tests.support.runs import small

X = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
Y = np.zeros((4, 3), np.int32)
HALF = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32)


@pytest.mark.slow
def test_a_batch_of_which_nothing_counts_has_weight_zero():
    part = Dataset(X, Y, HALF)
    np.testing.assert_array_equal(part.batch(slice(1, 2))["weight"], np.zeros((1, 3)))
    assert part.batch()["weight"].sum() == 1
    model, loss = Dense(2), SoftmaxCrossEntropy()
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(X.shape, X.dtype))
    batch = jax.tree.map(jnp.asarray, part.batch(slice(1, 2)))
    y, cache = model.forward(params, batch["x"], Context())
    value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
    _, grads = model.backward(params, cache, loss.backward(loss_cache))
    assert value == 0
    assert all((gradient == 0).all() for gradient in jax.tree.leaves(grads))
    empty = Dataset(X, Y, np.zeros_like(HALF))
    assert make_evaluation(model, loss, True)(params, {}, empty) == {"loss": 0, "accuracy": 0}


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_part_of_which_nothing_counts_is_refused(name):
    parts = dict.fromkeys(("train", "validation", "test"), Dataset(X, Y, HALF)) | {name: Dataset(X, Y, 0 * HALF)}
    with pytest.raises(InputError, match=f"^{name} part: its mask is 0 everywhere, and one time step must count"):
        Splits(**parts, classes=("a", "b"))


@pytest.mark.slow
def test_data_that_do_not_fit_a_run_are_refused(tmp_path, capsys):
    train(small(epochs=1), tmp_path)
    for name, text in (("wine", "only the data have the class 'class_0'"), ("diabetes", "only the run have the class")):
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path), f"--config.data.name={name}"]) == 2
        out, err = capsys.readouterr()
        assert text in err
        assert (out, err.count("\n")) == ("", 1)
    run = load(tmp_path)
    splits = run.config.data.load()
    check_data(run, splits)
    with pytest.raises(InputError, match="01_dense"):
        check_data(run, splits.map(lambda part: replace(part, x=part.x[:, :3])))


@pytest.mark.parametrize(
    "data",
    [Function("sine", examples=10**12), Encoder(10**7), Curve(length=10**30), Adding(length=10**12)],
    ids=lambda data: type(data).__name__,
)
def test_more_data_than_there_can_be_are_refused(data):
    with pytest.raises(InputError, match=rf"^{type(data).__name__}\.load\(\) raised \w+: "):
        replace(EXPERIMENTS["xor"], data=data).load_data()


@pytest.mark.slow
@pytest.mark.parametrize("model", [CNN(10, (8,), channels=(10**30, 8)), RNN(10, (10**30,)), ResNet(10, (10**30, 8))])
def test_a_model_whose_sizes_no_array_can_have_is_refused(model):
    config = replace(EXPERIMENTS["digits_mlp"], model=model, data=Embedded("digits", image=not isinstance(model, RNN)))
    with pytest.raises(InputError):
        check_fit(config, config.build_model(), config.load_data())


MARKUP = (r"$%_$", r"\$x_{", "<b>&amp;</b>", "a\tb\n")


@pytest.mark.slow
def test_names_are_text_in_pictures(tmp_path, monkeypatch):
    """A name with two $ would be a formula, and one that is none would fail."""
    drawn = []
    monkeypatch.setattr("matplotlib.mathtext.MathTextParser.parse", lambda self, text, *_: drawn.append(text))
    one_hot = np.eye(4, dtype=np.float32)
    measured = scores.measure(one_hot, np.arange(4), SoftmaxCrossEntropy(), MARKUP)
    scores.draw(measured, tmp_path)
    pictures.draw_mistakes(X[:, :, :, None], np.arange(4), np.arange(4)[::-1], MARKUP, tmp_path / "mistakes.png")
    pictures.draw_panels(dict.fromkeys(MARKUP[:3], X[0]), tmp_path / "panels.png")
    draw_attention({"00_attention": np.full((1, 4, 4), 0.25)}, (*MARKUP[:3], "a"), tmp_path / "attention.png")
    assert not drawn
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"attention", "confusion", "calibration", "mistakes", "panels"}
    monkeypatch.undo()
    deltas.draw_deltas({name: [1.0, 0.1] for name in MARKUP[:3]}, tmp_path / "deltas.png")


# --- config.json -------------------------------------------------------------------------------------------------

STRANGE = [
    *(None, True, 3, -1, 1e400, float("nan"), "x", "\0", [], {}, [[]], [{}], 10**40, "9" * 10_000, {"a": 1}),
    *({"type": name} for name in ("int", "str", "Config", "Path", "Layer", "Typed", ["a"], None, 0, "os.system")),
]


def places(value, place=()):
    """The places of all values in plain data."""
    yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


@pytest.mark.slow
def test_a_config_of_strange_data_is_refused_or_is_a_config():
    """Whatever stands in a config.json: no error but InputError, and no type but a config's."""

    class Number(int):
        """Of a user's own, in no config."""

    data = json.loads(json.dumps(to_json(small())))
    draw = random.Random(0)
    for place in places(data):
        for value in [*draw.sample(STRANGE, 6), {"type": Number.__name__}]:
            changed = copy.deepcopy(data)
            owner = changed
            for key in place[:-1]:
                owner = owner[key]
            if place:
                owner[place[-1]] = value
            with suppress(InputError):
                read = from_json(changed if place else value)
                assert isinstance(read, configuration.Config)
                assert all(isinstance(getattr(read, key), configuration.Typed) for key in ("data", "model", "run"))


def test_a_config_lacks_what_it_needs():
    data = to_json(EXPERIMENTS["xor"])
    del data["run"]["epochs"]
    with pytest.raises(InputError, match=r"^Run has no epochs, and needs it$"):
        from_json(data)
