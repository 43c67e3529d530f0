"""Any layer is a model: a config holds it as text, and the text gives it back."""

import json

import jax
import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Dense, Tanh, inits
from jaxbp.config import Config, Run, from_json, override, to_json
from jaxbp.core import layer_types
from jaxbp.data import Embedded
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import LayerModel
from jaxbp.models.model import read_layer
from jaxbp.optim import SGD
from jaxbp.training.loop import train
from jaxbp.training.run import load

BRANCHED = Chain((Dense(8), jaxbp.residual(Chain((Tanh(), Dense(8, w_init=inits.Normal(0.1))))), Dense(3)))
CASES = [
    case.layer
    for name, cls in layer_types().items()
    if name.startswith("jaxbp.")
    for case in cls.cases()
    if not isinstance(case.layer, (jaxbp.Elementwise, jaxbp.BlackBox))
]


def config(model):
    return Config(
        Embedded("iris", scaling="standard"), model, SoftmaxCrossEntropy(), SGD(0.1), Run(epochs=1, batch_size=16)
    )


@pytest.mark.parametrize("layer", [*CASES, BRANCHED], ids=lambda layer: type(layer).__name__)
def test_the_text_of_every_layer_gives_it_back(layer):
    model = LayerModel.of(layer)
    assert model.build() == layer
    assert LayerModel(model.layer) == model
    assert "\n" not in model.layer


@pytest.mark.slow
def test_a_config_with_a_layer_goes_through_json_and_trains(tmp_path):
    stored = config(BRANCHED)
    assert stored.model == LayerModel.of(BRANCHED)
    assert from_json(json.loads(json.dumps(to_json(stored)))) == stored
    train(stored, tmp_path)
    trained = load(tmp_path)
    assert trained.model == BRANCHED
    x = np.ones((5, 4), np.float32)
    assert BRANCHED.forward(trained.params, x, jaxbp.Context(train=False))[0].shape == (5, 3)


def test_it_is_a_key_of_the_command_line():
    changed = override(config(LayerModel.of(BRANCHED)), ["--config.model.layer=Chain((Dense(5), Tanh(), Dense(3)))"])
    assert changed.model.build() == Chain((Dense(5), Tanh(), Dense(3)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Chain((Dense(8), Dens(3)))", "unknown layer 'Dens'; did you mean 'Dense'"),
        ("Dense(8, featurs=3)", "unexpected keyword argument 'featurs'"),
        ("Dense(8", "'\\(' was never closed"),
        ("Dense(x)", "x is no layer, number or text in quotes"),
        ("Dense(*(3,))", r"\*\(3,\) is no layer"),
        ("Dense(**{})", "cannot be read as a layer"),
        ("3", "layer must be one such as"),
        ("Normal(0.1)", "layer must be one such as"),
        ("__import__('os').system('true')", "unknown layer"),
        ("(lambda: 1)()", "unknown layer"),
        ("Stack(Dense(3), 0)", "Stack: depth must be at least 1"),
    ],
)
def test_a_text_that_is_no_layer_is_refused(text, message):
    with pytest.raises(jaxbp.InputError, match=message) as refusal:
        LayerModel(text)
    assert "\n" not in str(refusal.value)


def test_a_layer_made_of_functions_is_refused():
    with pytest.raises(jaxbp.InputError, match="a config cannot hold this layer, a ModelConfig that builds it can"):
        LayerModel.of(Chain((Dense(3), jaxbp.Elementwise(jax.numpy.sin, jax.numpy.cos))))


def test_nothing_but_layers_and_their_settings_is_read():
    assert read_layer("(1, 'a', -2.5, None, Tanh())") == (1, "a", -2.5, None, Tanh())
