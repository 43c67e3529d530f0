"""Sequences from the file to the sample: data sets, weights for every step, carried state, deltas over time, text."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.config import Config, Run
from jaxbp.data import Adding, Curve, Reber, Text
from jaxbp.data.reber import SYMBOLS
from jaxbp.errors import InputError
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import RNN, TDNN
from jaxbp.optim import SGD, AdamW
from jaxbp.training.evaluate import make_evaluation
from jaxbp.training.loop import train
from jaxbp.training.report.deltas import make_delta_norms
from jaxbp.training.run import load
from jaxbp.training.sample import sample
from tests.support.commands import command, refused
from tests.support.runs import weights

FOX = "the quick brown fox jumps over the lazy dog\n" * 40


@pytest.fixture(scope="module")
def fox(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text(FOX)
    return str(path)


# --- data -----------------------------------------------------------------------------------------------------------


def test_text_windows_and_their_targets(fox):
    splits = Text(path=fox, length=20).load()
    text = lambda ids: "".join(splits.classes[i] for i in ids)
    cut = len(FOX) - round(0.1 * len(FOX))
    assert "".join(text(row) for row in splits.train.x) == FOX[: len(splits.train) * 20]
    assert "".join(text(row) for row in splits.train.y) == FOX[1 : len(splits.train) * 20 + 1]
    held = FOX[cut:]
    counted = "".join(text(row[mask > 0]) for row, mask in zip(splits.test.y, splits.test.mask, strict=True))
    assert counted == held[1 : len(counted) + 1]  # each once
    assert len(counted) > len(held) - 20


def test_streams_go_on_row_by_row(fox):
    data = Text(path=fox, length=10, streams=4).load()
    batches = data.train.x.reshape(-1, 4, 10)
    text = "".join(data.classes[i] for i in np.concatenate(batches[:, 2]))
    assert text == FOX[2 * len(text) : 3 * len(text)]


def test_the_default_text_needs_no_file_and_has_97_classes():
    splits = Text(size=5000).load()
    assert len(splits.classes) == 97
    assert splits.train.x.max() < 97
    assert "import" in "".join(splits.classes[i] for i in splits.train.x.ravel())


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (Text(path="nowhere.txt"), r"cannot read nowhere.txt \(No such file or directory\)"),
        (Text(size=100), "a text of 100 characters has no window of length=128 in its training part"),
        (Text(size=1000, length=128), "a text of 1000 characters has no window of length=128 in its test part"),
        (Text(size=5000, streams=1000), "streams=1000 are too many for a text of 35 windows"),
    ],
)
def test_text_that_cannot_be_used_is_one_line(data, line):
    with pytest.raises(InputError, match=line):
        data.load()


def test_adding():
    train = Adding(length=10, examples=200, test_examples=50).load().train
    numbers, marks = train.x[..., 0], train.x[..., 1]
    assert (marks[:, :5].sum(1) == 1).all()
    assert (marks[:, 5:].sum(1) == 1).all()
    np.testing.assert_allclose(train.y[:, 0], (numbers * marks).sum(1), rtol=1e-6)


@pytest.mark.parametrize("embedded", [False, True])
def test_reber_strings_and_what_counts(embedded):
    splits = Reber(embedded=embedded, examples=300, test_examples=100).load()
    spell = lambda part, row: "".join(SYMBOLS[i] for i in part.y[row, : int(part.mask[row].sum())])
    following: dict[str, set[str]] = {}
    for row in range(len(splits.train)):
        text = "B" + spell(splits.train, row)
        assert text.endswith("E")
        if embedded:
            assert text[1] == text[-2]
            assert text[2] == "B"
            text = text[2:-2]
        for i in range(1, len(text)):
            following.setdefault(text[:i], set()).add(text[i])
    assert following["B"] == {"T", "P"}
    assert all(len(symbols) <= 2 for symbols in following.values())
    test = splits.test
    for row in range(len(test)):  # a step that counts has one successor, and one that does not has two
        text = "B" + "".join(SYMBOLS[i] for i in test.y[row])
        end = text.index("E", 1) + (2 if embedded else 0)
        counts, inner = test.mask[row], 2 if embedded else 0
        for step in range(inner, end - (2 if embedded else 0)):
            if (seen := following.get(text[inner : step + 1])) and len(seen) == 2:
                assert counts[step] == 0
        if embedded:
            assert counts[0] == 0
            assert counts[end - 2] == 1


@pytest.mark.parametrize("name", ["circle", "ellipse", "eight", "lissajous"])
def test_curves_go_round(name):
    part = Curve(name, period=20.0, length=40).load().train
    np.testing.assert_allclose(part.x[:, 20:], part.x[:, :20], atol=1e-5)
    np.testing.assert_array_equal(part.x[:, 1:], part.y[:, :-1])


# --- training -------------------------------------------------------------------------------------------------------


def config(fox, **run):
    settings = {"epochs": 2, "batch_size": 4, "shuffle": False} | run
    model = RNN(outputs=97, hidden=(8,), embedding=5, carry=True)
    return Config(
        data=Text(path=fox, length=10, streams=4),
        model=model,
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=0.5),
        run=Run(**settings),
    )


@pytest.mark.slow
def test_a_carried_state_goes_from_batch_to_batch(fox, tmp_path):
    """Training by hand, window after window with the state of the one before, gives the same weights."""
    experiment = config(fox, epochs=1)
    train(experiment, tmp_path)
    model, data = experiment.model.build(), experiment.data.load().train
    layers = dict(zip(("embedding", "recurrent", "dense"), model.layers, strict=True))
    spec = jax.ShapeDtypeStruct((4, 10), jnp.int32)
    key, _ = jax.random.split(jax.random.key(0))
    params, state = (
        model.init(key, spec),
        layers["recurrent"].init_state(
            layers["embedding"].forward(
                model.init(key, spec)["00_embedding"], jnp.zeros((4, 10), jnp.int32), jaxbp.Context()
            )[0]
        ),
    )

    def value(params, state, x, y):
        embedded = params["00_embedding"]["w"][x]
        h, _ = layers["recurrent"].forward(params["01_recurrent"], embedded, jaxbp.Context(state=state))
        after = layers["recurrent"].next_state(
            state, layers["recurrent"].forward(params["01_recurrent"], embedded, jaxbp.Context(state=state))[1]
        )
        logits = h @ params["02_dense"]["w"].T + params["02_dense"]["b"]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1)
        return -jnp.mean(picked), after

    step = jax.jit(jax.value_and_grad(value, has_aux=True))
    for i in range(len(data) // 4):
        rows = slice(4 * i, 4 * i + 4)
        (_, state), grads = step(params, state, data.x[rows], data.y[rows])
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)
    for ours, theirs in zip(jax.tree.leaves(load(tmp_path).params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("run", [{"shuffle": True}, {"micro_batches": 2}, {"batch_size": 8}])
def test_a_carried_state_needs_rows_that_go_on(fox, tmp_path, run):
    with pytest.raises(InputError, match=r"a carried state needs run.shuffle=False, run.micro_batches=1 and data"):
        train(config(fox, **run), tmp_path)


@pytest.mark.slow
def test_the_loss_is_the_mean_over_the_steps_that_count():
    """What a masked step holds changes nothing: not the loss, not the accuracy, not the weights."""
    data = Reber(examples=40, test_examples=20).load()
    model = RNN(outputs=7, hidden=(4,)).build()
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((20, *data.test.x.shape[1:]), jnp.float32))
    evaluate = make_evaluation(model, SoftmaxCrossEntropy(), True)
    metrics = evaluate(params, model.init_state(jax.ShapeDtypeStruct(data.test.x.shape, jnp.float32)), data.test)
    y, _ = model.forward(params, data.test.x, jaxbp.Context())
    items = -np.take_along_axis(np.asarray(jax.nn.log_softmax(y)), data.test.y[..., None], -1)[..., 0]
    counts = data.test.mask > 0
    np.testing.assert_allclose(metrics["loss"], items[counts].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (y.argmax(-1) == data.test.y)[counts].mean(), rtol=1e-6)


@pytest.mark.slow
def test_masked_steps_do_not_reach_the_weights(tmp_path):
    experiment = Config(
        data=Reber(examples=40, test_examples=20),
        model=RNN(outputs=7, hidden=(4,)),
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=0.5),
        run=Run(epochs=2, batch_size=16),
    )
    splits = experiment.data.load()
    spoilt = replace(splits.train, y=np.where(splits.train.mask > 0, splits.train.y, 6))
    train(experiment, tmp_path / "a", splits=splits)
    train(experiment, tmp_path / "b", splits=replace(splits, train=spoilt))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.nightly
@pytest.mark.slow
def test_reber_and_curves_are_learned(tmp_path):
    last = command("train.py", "--config=configs/reber.py", f"--workdir={tmp_path / 'reber'}").stdout.splitlines()[-1]
    assert last == "test accuracy 1.0000"
    loss = {}
    nets = {
        "one point": ("--config=configs/lissajous_delay.py", "--config.model.taps=1"),
        "two points": ("--config=configs/lissajous_delay.py", "--config.model.taps=2"),
        "recurrent": ("--config=configs/lissajous.py",),
    }
    for name, words in nets.items():
        done = command("train.py", *words, f"--workdir={tmp_path / name}", "--config.run.epochs=30")
        loss[name] = float(done.stdout.split()[-1])
    assert loss["two points"] < loss["one point"] / 4  # without the step before, a crossing has two directions
    assert loss["recurrent"] < loss["one point"] / 4


def test_time_delay_network_is_dense_layers_on_a_delay_line():
    model = TDNN(outputs=2, taps=3, hidden=(5,)).build()
    spec = jax.ShapeDtypeStruct((4, 7, 2), jnp.float32)
    assert jax.tree.map(jnp.shape, model.init(jax.random.key(0), spec))["01_dense"]["w"] == (5, 6)
    assert jaxbp.output_spec(model, spec).shape == (4, 7, 2)


# --- deltas over time -----------------------------------------------------------------------------------------------


def simple_step(params, h, a):
    return jnp.tanh(a + h @ params["wh"].T)


def gru_step(params, h, a):
    r, u, n = jnp.split(a, 3, -1)
    hr, hu, hn = jnp.split(h @ params["wh"].T, 3, -1)
    r, u = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(u + hu)
    n = jnp.tanh(n + r * (hn + params["bh"]))
    return (1 - u) * n + u * h


def early_gru_step(params, h, a):
    r, u, n = jnp.split(a, 3, -1)
    hr, hu = jnp.split(h @ params["wh"].T, 2, -1)
    r, u = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(u + hu)
    n = jnp.tanh(n + (r * h) @ params["wn"].T)
    return (1 - u) * n + u * h


@pytest.mark.parametrize(
    ("cell", "step"),
    [
        (jaxbp.SimpleCell(2), simple_step),
        (jaxbp.GRUCell(2), gru_step),
        (jaxbp.GRUCell(2, reset="before"), early_gru_step),
    ],
    ids=["simple", "gru", "gru before"],
)
def test_delta_norms_are_those_of_autodiff(cell, step):
    """|dL / da_t| by differentiating in a term that is added to every pre-activation."""
    model = jaxbp.Chain((jaxbp.Recurrent(cell, output="last"), jaxbp.Dense(2)))
    x = jax.random.normal(jax.random.key(1), (3, 4, 5))
    params = model.init(jax.random.key(0), x)
    batch = {"x": x, "y": jnp.ones((3, 2)), "weight": jnp.full(3, 1 / 3)}
    norms = make_delta_norms(model, SquaredError())(params, None, batch)["00_recurrent"]

    def value(extra):
        weights, h = params["00_recurrent"], jnp.zeros((3, 2))
        for t in range(4):
            h = step(weights, h, x[:, t] @ weights["wx"].T + weights["b"] + extra[:, t])
        y = h @ params["01_dense"]["w"].T + params["01_dense"]["b"]
        return jnp.sum((y - 1) ** 2) / 6

    gates = len(params["00_recurrent"]["b"])
    deltas = jax.jit(jax.grad(value))(jnp.zeros((3, 4, gates)))
    expected = jnp.sqrt(jnp.sum(deltas**2, (0, 2)))
    np.testing.assert_allclose(norms, expected, rtol=2e-3)


def test_there_are_no_delta_norms_without_a_recurrent_layer():
    assert make_delta_norms(TDNN(outputs=2).build(), SquaredError()) is None


# --- text from a model ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language_run(fox, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    experiment = config(fox, epochs=30)
    train(
        replace(experiment, optimizer=AdamW(learning_rate=1e-2), model=replace(experiment.model, hidden=(32,))), folder
    )
    return folder


@pytest.mark.slow
def test_a_run_on_text_leaves_norms_and_samples(language_run):
    rows = [json.loads(line) for line in (language_run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows[-1]["delta_norms"]["01_recurrent"]) == 10
    assert (language_run / "deltas.png").exists()
    assert rows[-1]["test_loss"] < 0.3
    words = ("--run", language_run, "--prompt=the quick", "--length=60", "--temperature=0.1")
    text = command("sample.py", *words).stdout
    assert text.startswith("the quick brown fox jumps over the lazy dog\nthe quick brown")
    assert (language_run / "sample.txt").read_text() + "\n" == text
    assert command("sample.py", *words).stdout == text
    command("evaluate.py", f"--run={language_run}")


@pytest.mark.slow
def test_bad_samples_are_one_line(language_run, tmp_path):
    assert refused("sample.py", f"--run={tmp_path}").endswith("it has no config.json")
    assert "the prompt has 'ü'" in refused("sample.py", f"--run={language_run}", "--prompt=ü")
    assert "did you mean '--prompt'" in refused("sample.py", f"--run={language_run}", "--promt=a")


@pytest.mark.slow
def test_sampling_one_step_at_a_time_is_the_forward_pass(language_run):
    """The likeliest next character, over and over, is what the whole forward pass says of the text so far."""
    model, params, _, _, _, classes, *_ = load(language_run)
    text = "the" + sample(model, params, classes, "the", 12, 0.0, 0)
    fresh_start = jaxbp.layers.recurrent.with_carry(model, False)
    ids = jnp.array([[classes.index(character) for character in text]])
    y, _ = fresh_start.forward(params, ids, jaxbp.Context(train=False))
    assert [classes[i] for i in y[0, 2:-1].argmax(-1)] == list(text[3:])
