"""GPT-2 against transformers: logits, every gradient against PyTorch's autograd, and weights in both directions."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.errors import InputError
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models.gpt2 import TABLE, from_names, gpt2, load_gpt2, save_gpt2, to_names

pytestmark = pytest.mark.slow

SMALL = gpt2(outputs=61, width=24, depth=2, heads=3, context=16, dropout=0.0)
TOLERANCE = 1e-4  # in float32, relative to the largest entry


def drawn(config, key=0):
    """Parameters in which nothing is 0 or 1, so that none can be confused or left out."""
    spec = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    like = jax.eval_shape(config.build().init, jax.random.key(0), spec)
    rng = np.random.default_rng(key)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.02, 0.1, leaf.shape), jnp.float32), like)


def against_transformers(config, folder, rows, time):
    """Largest relative errors of (logits, gradients by name) of the exported model."""
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0 for this oracle")
    transformers = pytest.importorskip("transformers", reason="pip install transformers for this oracle")
    params = drawn(config)
    save_gpt2(folder, config, params)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    ids = np.random.default_rng(1).integers(0, config.outputs, (rows, time + 1))
    output = theirs(torch.tensor(ids[:, :-1]))
    loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), torch.tensor(ids[:, 1:]).flatten())
    loss.backward()
    batch = {"x": jnp.asarray(ids[:, :-1], jnp.int32), "y": jnp.asarray(ids[:, 1:], jnp.int32)}
    batch["weight"] = jnp.full((rows, time), 1 / (rows * time))
    model = config.build()
    logits = jax.jit(lambda params: model.forward(params, batch["x"], jaxbp.Context.evaluation())[0])(params)
    result = jax.jit(jaxbp.value_and_grad(model, SoftmaxCrossEntropy()))(params, batch)
    error = lambda ours, truth: float(np.abs(np.asarray(ours) - truth).max() / np.abs(truth).max())
    gradients = to_names(result.grads)
    errors = {name: error(gradients.pop(name), p.grad.numpy()) for name, p in theirs.named_parameters()}
    assert not gradients
    return error(logits, output.logits.detach().numpy()), errors


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_logits_and_every_gradient_of_a_small_one(tmp_path):
    logits, gradients = against_transformers(SMALL, tmp_path / "gpt2", 3, 11)
    assert logits <= TOLERANCE
    assert max(gradients.values()) <= TOLERANCE, gradients
    assert len(gradients) == 4 + 2 * 12


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_logits_and_every_gradient_of_the_124m_shape(tmp_path):
    logits, gradients = against_transformers(gpt2(dropout=0.0), tmp_path / "gpt2", 1, 256)
    worst = max(gradients, key=gradients.get)
    print(f"logits {logits:.1e}, gradients at most {gradients[worst]:.1e} in {worst}, {len(gradients)} leaves")
    assert logits <= TOLERANCE
    assert gradients[worst] <= TOLERANCE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_transformers_writes_is_read(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install transformers for this oracle")
    sizes = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 16}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, resid_pdrop=0.0))
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = load_gpt2(tmp_path / "theirs")
    assert config == SMALL
    save_gpt2(tmp_path / "ours", config, params)
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").state_dict()
    state = theirs.state_dict()
    assert back.keys() == state.keys()
    assert all((back[name] == state[name]).all() for name in state)


def test_names_there_and_back():
    params = drawn(SMALL)
    arrays = to_names(params)
    assert len(arrays) == 4 + 2 * (len(TABLE) - 4)
    assert arrays["transformer.h.1.attn.c_attn.weight"].shape == (24, 72)
    masks = {"h.0.attn.bias": np.ones((1, 1, 16, 16)), "lm_head.weight": arrays["transformer.wte.weight"]}
    back = from_names(SMALL, arrays | masks)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"transformer.h.1.mlp.c_fc.weight": None}, r"there is no 'h\.1\.mlp\.c_fc\.weight'"),
        (
            {"h.0.mlp.c_fc.wieght": 1},
            r"unknown parameter 'h\.0\.mlp\.c_fc\.wieght'.*did you mean 'h\.0\.mlp\.c_fc\.weight'",
        ),
        (
            {"transformer.h.0.attn.c_attn.weight": np.ones((72, 24))},
            r"'h\.0\.attn\.c_attn\.weight' is \[72, 24\], and config\.json makes it \[24, 72\]",
        ),
        ({"lm_head.weight": np.ones((61, 24))}, r"'lm_head\.weight' differs from 'wte\.weight'"),
    ],
)
def test_the_first_name_that_does_not_fit_is_named(change, line):
    arrays = to_names(drawn(SMALL)) | change
    with pytest.raises(InputError, match=line):
        from_names(SMALL, {name: array for name, array in arrays.items() if array is not None})


def test_a_model_of_another_kind_is_refused(tmp_path):
    pytest.importorskip("safetensors", reason="pip install safetensors for this test")
    save_gpt2(tmp_path / "gpt2", SMALL, drawn(SMALL))
    facts = json.loads((tmp_path / "gpt2/config.json").read_text())
    for name, value in {"activation_function": "relu", "scale_attn_weights": False, "n_inner": 7}.items():
        (tmp_path / "gpt2/config.json").write_text(json.dumps(facts | {name: value}))
        with pytest.raises(InputError, match=rf"config\.json: {name} is {value!r}, and only"):
            load_gpt2(tmp_path / "gpt2")
    (tmp_path / "gpt2/config.json").write_text(json.dumps(facts | {"n_embd": None, "n_inner": 96}))
    with pytest.raises(InputError, match="width must be an integer"):
        load_gpt2(tmp_path / "gpt2")
    with pytest.raises(InputError, match="there is no folder"):
        save_gpt2(tmp_path / "no/gpt2", SMALL, drawn(SMALL))
    with pytest.raises(InputError, match="is there already"):
        save_gpt2(tmp_path / "gpt2", SMALL, drawn(SMALL))
    with pytest.raises(InputError, match=r"'wte\.weight' is \[61, 24\]"):
        save_gpt2(tmp_path / "other", gpt2(outputs=62, width=24, depth=2, heads=3, context=16), drawn(SMALL))
    with pytest.raises(InputError, match="head is 'free', and 'tied' in a GPT-2"):
        save_gpt2(tmp_path / "other", replace(SMALL, head="free"), drawn(SMALL))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w: {"transformer.wte.weight": w.astype(np.int32)}, "is of type int32"),
        (lambda w: {"transformer.wte.weight": w.astype(np.float64) * 1e300}, "not finite in float32"),
        (lambda w: {"transformer.wte.weight": w * np.nan}, "not finite in float32"),
        (lambda w: {"wte.weight": w + 1}, "and one must be left out"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(change, line):
    arrays = to_names(drawn(SMALL))
    with pytest.raises(InputError, match=line):
        from_names(SMALL, arrays | change(arrays["transformer.wte.weight"]))


def test_a_deep_config_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="as the config of a GPT-2"):
        load_gpt2(tmp_path)
