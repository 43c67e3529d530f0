"""The rules of one layer and gain backpropagation: items of any leading axes, and what is refused before a step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Chain, Dense, Graph, Node, Recurrent, Stack, optim
from jaxbp.config import Config, Run
from jaxbp.data import Function
from jaxbp.errors import InputError
from jaxbp.models import MLP
from jaxbp.optim import Objective
from jaxbp.training.loop import train

LOSS = jaxbp.SquaredError()
MODEL = Dense(2)
DIRECTIONS = {  # rule: what stands for y - t, of y, t and x
    optim.Perceptron(): lambda y, t, x: (y > LOSS.threshold) - t,
    optim.DeltaRule(): lambda y, t, x: y - t,
    optim.Adaline(): lambda y, t, x: (y - t) / ((x * x).sum(-1, keepdims=True) + 1),
}


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_every_step_of_a_sequence_is_an_item_with_its_own_weight():
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 5, 4))
    target = random.integers(0, 2, (3, 5, 2)).astype(float)
    batch = {"x": x, "y": target, "weight": random.uniform(size=(3, 5)) * (random.uniform(size=(3, 5)) > 0.3)}
    params = {"w": random.normal(size=(2, 4)), "b": random.normal(size=2)}
    gradients = jax.jit(lambda: [rule.gradient(MODEL, LOSS)(params, batch).grads for rule in DIRECTIONS])()
    for grads, direction in zip(gradients, DIRECTIONS.values(), strict=True):
        error = batch["weight"][..., None] * direction(x @ params["w"].T + params["b"], target, x)
        np.testing.assert_allclose(grads["w"], np.einsum("nto,nti->oi", error, x), rtol=1e-12)
        np.testing.assert_allclose(grads["b"], np.einsum("nto->o", error), rtol=1e-12)
    truth = jax.jit(jaxbp.value_and_grad(MODEL, LOSS))(params, batch).grads
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), gradients[1], truth)


@pytest.mark.parametrize("model", [Stack(Dense(4), 2), jaxbp.NeuralODE(Dense(4))], ids=["stack", "ode"])
def test_one_dense_that_runs_several_times_is_refused(model):
    with pytest.raises(InputError, match=re.escape(f"DeltaRule trains one Dense and nothing else, got {model}, Dense")):
        optim.DeltaRule().gradient(model, LOSS)


@pytest.mark.parametrize(("label", "counts"), [(-1.0, True), (0.5, True), (0.5, False)])
def test_a_perceptron_takes_targets_of_0_and_1_alone(label, counts):
    target, weight = np.array([[0.0], [1.0], [label]]), np.array([1.0, 1.0, counts])
    check = lambda: optim.Perceptron().check_targets(target, weight)
    if not counts:
        check()
        return
    with pytest.raises(InputError, match=f"^Perceptron needs targets of 0 or 1, got {label}$"):
        check()


def test_a_run_of_a_perceptron_on_numbers_is_refused_before_anything_is_written(tmp_path):
    config = Config(Function("sine"), MLP(outputs=1), loss=LOSS, optimizer=optim.Perceptron(), run=Run(epochs=1))
    with pytest.raises(InputError, match=r"^Perceptron needs targets of 0 or 1, got -?0\.\d+$"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def first_gains(model, *shape):
    """The shapes of the state before the first step."""
    params = jax.eval_shape(model.init, jax.random.key(0), jaxbp.shaped(*shape))
    return jax.eval_shape(optim.GainBackpropagation().build(1, Objective(model, LOSS)).init, params)


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (Chain(Dense(3), Recurrent(jaxbp.SimpleCell(2))), "01_recurrent/b (2,), 01_recurrent/wh (2, 2), "),
        (Recurrent(jaxbp.SimpleCell(2)), "b (2,), wh (2, 2), "),
        (Chain(Stack(Dense(3), 2)), "00_stack/b (2, 3), 00_stack/w (2, 3, 3)"),
    ],
    ids=["recurrent", "bare", "stack"],
)
def test_gains_of_other_layers_are_refused_in_one_line(model, got):
    line = f"GainBackpropagation is defined for Dense, each with w [O, I] of its own, got {got}"
    with pytest.raises(InputError, match=f"^{re.escape(line)}"):
        first_gains(model, 5, 4, 3)


def test_a_node_may_have_the_name_of_a_weight():
    graph = Graph((Node("w", Chain(Dense(2)), ("x",)), Node("b", jaxbp.Tanh(), ("w",))))
    assert first_gains(graph, 5, 3) == {"w": {"00_dense": jax.ShapeDtypeStruct((4, 4), jnp.float32)}, "b": {}}
