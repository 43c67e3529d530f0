"""The layers of a look stand in the order of the forward pass, whatever their names are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.digits_vae import get_config
from jaxbp.compose import Chain, Graph, Node, Stack
from jaxbp.core import Context
from jaxbp.layers import Dense, Sigmoid
from jaxbp.models.gpt import GPT
from jaxbp.rules import Rule
from jaxbp.training.health import Moved, _by_layer, _statistics
from jaxbp.training.report.diagnosis import ends, last_layer, with_parameters
from jaxbp.training.report.evidence import Evidence
from jaxbp.wrappers import kept_in_order


def looked(model, x):
    """The evidence of one look at the model, traced and not computed: every figure is 1."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, x)
    keeping = kept_in_order(model)

    def look(params, x, key):
        y, cache = keeping.forward(params, x, Context(key))
        return keeping.sweep(Rule(_statistics), jax.tree.map(lambda p: Moved(p, p, p), params), cache, y)[1]

    taken = jax.tree.map(lambda s: np.ones(s.shape), jax.eval_shape(look, params, x, key))
    return Evidence([], [{"step": 0, "loss": 1.0, "rows": 1, "layers": _by_layer(taken)}], {})


def deep():
    """Dense and sigmoid layers whose names go back through the alphabet."""
    names = [f"n{number}{kind}" for number in (99, 98, 97) for kind in "ds"] + ["aout"]
    before = ["x", *names]
    layers = {"d": Dense(3), "s": Sigmoid(), "t": Dense(1)}
    nodes = [Node(name, layers[name[-1]], before[i]) for i, name in enumerate(names)]
    return Graph(nodes), names


def test_of_a_graph_whose_names_go_back():
    model, names = deep()
    evidence = looked(model, jax.ShapeDtypeStruct((5, 2), jnp.float32))
    assert evidence.layers == names
    assert with_parameters(evidence) == ["n99d", "n98d", "n97d", "aout"]
    assert last_layer(evidence) == "aout"
    evidence.health[0]["layers"]["n99d"]["delta"] = 1e-9
    assert [float(end[0]) for end in ends(evidence, "delta")] == [1e-9, 1.0]


def test_of_the_variational_autoencoder():
    evidence = looked(get_config().model.build(), jax.ShapeDtypeStruct((5, 64), jnp.float32))
    assert evidence.layers == ["encode", "bend", "code", "draw", "decode", "curve", "pixels", "out"]


def test_of_a_stack():
    model = Chain(Dense(3), Stack(Chain(Dense(3), Sigmoid()), 2), Dense(1))
    layers = looked(model, jax.ShapeDtypeStruct((5, 2), jnp.float32)).layers
    stack = [f"01_stack/{layer} {block}" for layer in ("00_dense", "01_sigmoid") for block in range(2)]
    assert layers == ["00_dense", *stack, "02_dense"]


@pytest.mark.slow
def test_of_a_gpt_with_tied_embedding():
    model = GPT(10, 8, 1, 2, context=4, head="tied").build()
    layers = looked(model, jax.ShapeDtypeStruct((5, 4), jnp.int32)).layers
    assert layers[0].startswith("embedding")
    assert layers[-1] == "head"
