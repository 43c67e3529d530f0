"""Text from a model: what is drawn, the same with a cache as without, during a run and after it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.commands.__main__ import main
from jaxbp.config import Config, Run
from jaxbp.data import Embedded, Text
from jaxbp.errors import InputError
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import GPT, MLP, RNN
from jaxbp.optim import AdamW
from jaxbp.summary import summary
from jaxbp.training import samples
from jaxbp.training.feeds import calls
from jaxbp.training.loop import train
from jaxbp.training.report.attention import attention_maps
from jaxbp.training.report.language import Pace, bits_per_byte
from jaxbp.training.run import load
from jaxbp.training.sample import Draw, drawn, sample
from tests.support.runs import weights

FOX = "the quick brown fox jumps over the lazy dog\n" * 40
LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))
MODELS = {
    "lstm": RNN(outputs=7, hidden=(5,), embedding=3),
    "learned": GPT(outputs=7, width=8, depth=2, heads=2, context=9),
}


# --- what is drawn --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (Draw(), [0.1, 0.4, 0.2, 0.3]),
        (Draw(top_k=2), [0, 4 / 7, 0, 3 / 7]),
        (Draw(top_k=9), [0.1, 0.4, 0.2, 0.3]),
        (Draw(top_p=0.4), [0, 1, 0, 0]),
        (Draw(top_p=0.71), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Draw(top_p=1e-9), [0, 1, 0, 0]),
        (Draw(top_k=3, top_p=0.75), [0, 4 / 7, 0, 3 / 7]),  # of the three that stay, two have 7 / 9 of the probability
    ],
)
def test_only_the_likeliest_are_drawn(draw, expected):
    np.testing.assert_allclose(jax.nn.softmax(draw.kept(LOGITS)), expected, rtol=1e-6)


@pytest.mark.slow
def test_how_often_and_at_which_temperature():
    keys = jax.random.split(jax.random.key(0), 4000)
    shares = lambda draw: np.bincount(jax.jit(jax.vmap(lambda key: draw(key, LOGITS)))(keys), minlength=4) / 4000
    flat = np.sqrt([0.1, 0.4, 0.2, 0.3])
    np.testing.assert_allclose(shares(Draw(temperature=2.0, top_p=0.99)), flat / flat.sum(), atol=0.03)
    np.testing.assert_array_equal(shares(Draw(temperature=0.0)), [0, 1, 0, 0])


# --- with a cache and without ---------------------------------------------------------------------------------------


def without_cache(forward, ids, keys, draw, context):
    """Each token from a pass over all that it sees: all of the text, or from the later half of a full context on."""
    text = list(ids)
    first = 0
    for key in keys:
        if context and len(text) - first > context:
            first = len(text) - context // 2
        seen = text[first:]
        padded = np.pad(seen, (0, (context or 40) - len(seen)))  # what comes later changes nothing
        text.append(int(draw(key, forward(jnp.asarray(padded[None]))[0, len(seen) - 1, :6])))
    return text[len(ids) :]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_with_a_cache_as_without(name):
    model = with_carry(MODELS[name].build(), 0)
    params = model.init(jax.random.key(1), jax.ShapeDtypeStruct((1, 9), jnp.int32))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    forward = jax.jit(lambda x: model.forward(params, x, jaxbp.Context.evaluation())[0])
    keys = jax.random.split(jax.random.key(2), 20)
    context = {"lstm": None, "learned": 9}[name]
    draw = Draw(0.9, top_k=5, top_p=0.95)
    for prompt in (1, 6):
        ids = np.random.default_rng(prompt).integers(0, 6, prompt)
        ours = drawn(model, params, ids, keys, draw, context, 6).tolist()
        assert len(set(ours)) > 1
        assert ours == without_cache(forward, ids, keys, draw, context)


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_is_read_from_its_later_half():
    model = MODELS["learned"].build()
    params = model.init(jax.random.key(1), jax.ShapeDtypeStruct((1, 9), jnp.int32))
    text = lambda prompt: sample(model, params, "abcdefg", prompt, 6, 1.0, 0)
    assert text("abcdefgabcde") == text("bcde")


# --- a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text(FOX)
    return Config(
        data=Text(str(path), length=16),
        model=GPT(outputs=97, width=8, depth=1, heads=2, context=16),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=1e-2),
        run=Run(epochs=1, batch_size=8, steps_per_call=5, sample_every=7),
    )


def test_what_others_have_put_in_the_place_of_the_samples_is_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "sample", lambda *arguments, **options: "text")
    (tmp_path / "samples").write_text("mine")
    sampler = samples.Sampler(None, None, "", 4, 1, 0, tmp_path / "samples")
    sampler.write(SimpleNamespace(finite=True, step=3, params={}))
    assert (tmp_path / "samples/0000000003.txt").read_text() == "text"
    assert (tmp_path / "refused.samples").read_text() == "mine"


@pytest.mark.slow
def test_a_run_leaves_samples_and_its_speed(experiment, tmp_path, capsys):
    row = train(experiment, tmp_path / "a")
    assert row["test_bits_per_byte"] == pytest.approx(row["test_loss"] / np.log(2))
    steps = row["step"]
    files = sorted(path.name for path in (tmp_path / "a/samples").iterdir())
    assert files == [f"{step:010d}.txt" for step in range(7, steps + 1, 7)]
    texts = [(tmp_path / "a/samples" / name).read_text() for name in files]
    held = FOX[len(FOX) - round(0.1 * len(FOX)) :]
    assert all(text.startswith(held[:10]) and len(text) == 210 for text in texts)
    timing = json.loads((tmp_path / "a/timing.jsonl").read_text().splitlines()[-1])
    assert timing["tokens_per_second"] == pytest.approx(timing["steps_per_second"] * 8 * 16)
    assert 0 < timing["utilisation"] < 1
    other = replace(experiment, run=replace(experiment.run, steps_per_call=3, sample_every=None))
    train(other, tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    capsys.readouterr()
    words = ["sample", str(tmp_path / "a"), "--prompt=the quick", "--length=60", "--top_k=5", "--top_p=0.9"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("the quick")
    assert len(text) == 9 + 60 + 1
    assert main(["attention", str(tmp_path / "a"), "--text=the fox"]) == 0
    assert (tmp_path / "a/attention.png").read_bytes().startswith(b"\x89PNG")
    run = load(tmp_path / "a")
    assert text[:-1] == "the quick" + sample(run.model, run.params, run.classes, "the quick", 60, 0.8, 0, 5, 0.9, 16)


@pytest.mark.slow
def test_samples_need_text(tmp_path):
    run = Run(epochs=1, batch_size=16, sample_every=5)
    config = Config(Embedded("iris"), MLP(outputs=3), SoftmaxCrossEntropy(), AdamW(), run)
    with pytest.raises(InputError, match=r"run\.sample_every needs data that are text"):
        train(config, tmp_path)


def test_calls_end_where_a_sample_is_due():
    assert list(calls(3, 20, 5, 100, 7)) == [(3, 2), (5, 5), (10, 2), (12, 5), (17, 2), (19, 1)]
    assert list(calls(3, 20, 5, 100, None)) == [(3, 5), (8, 5), (13, 5), (18, 2)]


@pytest.mark.slow
def test_operations_are_those_of_the_formulas():
    """Products alone: 6 operations for each weight and token, and 12 T D for each token and layer in attention."""
    model = GPT(outputs=64, width=64, depth=2, heads=2, context=32, keep="sqrt")
    spec = jax.ShapeDtypeStruct((4, 32), jnp.int32)
    built = model.build()
    weights = 2 * 12 * 64 * 64 + 64 * 64
    products = (6 * weights + 12 * 2 * 32 * 64) * spec.size
    operations = Pace(built, spec).operations
    assert products < operations < 1.25 * products
    assert operations < summary(built, spec).total.forward + summary(built, spec).total.backward


def test_bits_per_byte_of_a_plain_cross_entropy_alone():
    assert bits_per_byte(SoftmaxCrossEntropy(), np.log(2), 4.0) == {"bits_per_byte": 0.25}
    assert bits_per_byte(SoftmaxCrossEntropy(label_smoothing=0.1), 1.0, 4.0) == {}
    assert bits_per_byte(SoftmaxCrossEntropy(), 1.0, None) == {}


@pytest.mark.slow
def test_attention_maps_are_the_weights():
    """Of each head: softmax of the scores that queries and keys of the parameters give, 0 above the diagonal."""
    model = GPT(outputs=7, width=8, depth=2, heads=2, context=9, keep="sqrt").build()
    params = model.init(jax.random.key(1), jax.ShapeDtypeStruct((1, 9), jnp.int32))
    params = jax.tree.map(lambda p: p + 0.5 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    ids = np.array([3, 1, 4, 1, 5, 2])
    maps = attention_maps(model, params, None, ids)
    assert [heads.shape for heads in maps.values()] == [(2, 6, 6)] * 2
    for heads in maps.values():
        np.testing.assert_allclose(heads.sum(-1), 1, rtol=1e-5)
        assert (np.triu(heads, 1) == 0).all()
    first = jax.tree.map(lambda p: p[0], params["02_stack"]["00_graph"]["body"])
    x = params["00_embedding"]["w"][ids] + params["01_positions"]["w"][:6]
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * first["00_layernorm"]["scale"] + first["00_layernorm"]["bias"]
    q, k, _ = jnp.split(x @ first["01_attention"]["qkv"]["w"].T + first["01_attention"]["qkv"]["b"], 3, -1)
    scores = jnp.einsum("thd,shd->hts", q.reshape(6, 2, 4), k.reshape(6, 2, 4)) / 2
    scores = jnp.where(jnp.tril(jnp.ones((6, 6))) > 0, scores, -jnp.inf)
    np.testing.assert_allclose(next(iter(maps.values())), jax.nn.softmax(scores), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="the model has no attention"):
        attention_maps(MODELS["lstm"].build(), MODELS["lstm"].build().init(jax.random.key(0), ids[None]), None, ids)


@pytest.mark.parametrize("draw", [Draw(1e-300), Draw(1e-45), Draw(top_p=1e-300)])
def test_a_draw_as_narrow_as_can_be_takes_the_likeliest(draw):
    assert int(draw(jax.random.key(0), jnp.array([-90.0, 1.0, 90.0, 3.0]))) == 2
