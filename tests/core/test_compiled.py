"""What the compiler makes of a training step: operations, products, temporary bytes; hand-written beside autodiff."""

import re

import jax
import jax.numpy as jnp
import jaxlib
import optax
import pytest

import jaxbp
from bench.suites import cnn
from jaxbp.check import autodiff
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP, ResNet
from jaxbp.training.step import initial_state, make_step
from tests.support.programs import compiled

PINNED = "0.10.2"
pytestmark = pytest.mark.skipif(jaxlib.__version__ != PINNED, reason=f"figures are those of jaxlib {PINNED}")
SIGMOID = MLP(outputs=10, hidden=(30,), activation="sigmoid", output_activation="sigmoid")
NETS = {
    "784-30-10": (SIGMOID, SquaredError(), 10),
    "784-512-512-10": (MLP(outputs=10, hidden=(512, 512)), SoftmaxCrossEntropy(), 128),
    "784-2048x3-10": (MLP(outputs=10, hidden=(2048,) * 3), SoftmaxCrossEntropy(), 512),
}


def compiled_step(gradient, name):
    config, loss, rows = NETS[name]
    model, optimizer = config.build(), optax.sgd(0.1)
    spec = jax.ShapeDtypeStruct((rows, 784), jnp.float32)
    target = jnp.zeros((rows, 10)) if isinstance(loss, SquaredError) else jnp.zeros(rows, jnp.int32)
    batch = {"x": spec, "y": target, "mask": jnp.ones(rows)}
    state = jax.eval_shape(lambda: initial_state(model, optimizer, spec, 0))
    return jax.jit(make_step(gradient(model, loss), optimizer), donate_argnums=0).lower(state, batch)


def products(lowered) -> int:
    return len(re.findall(r"stablehlo\.dot_general", lowered.as_text()))


@pytest.mark.parametrize("name", NETS)
def test_the_step_is_never_worse_than_autodiff(name):
    hand, auto = (compiled_step(gradient, name) for gradient in (jaxbp.value_and_grad, autodiff))
    assert products(hand) <= products(auto) + 1  # the first layer's dx is written, and removed by the compiler
    hand, auto = compiled(hand), compiled(auto)
    assert hand.cost_analysis()["flops"] <= auto.cost_analysis()["flops"]
    assert hand.memory_analysis().temp_size_in_bytes <= auto.memory_analysis().temp_size_in_bytes
    operations = 2 * sum(a * b for a, b in zip((784, *NETS[name][0].hidden), (*NETS[name][0].hidden, 10), strict=True))
    first = 2 * 784 * NETS[name][0].hidden[0]
    rows = NETS[name][2]
    assert hand.cost_analysis()["flops"] >= rows * (3 * operations - first)  # the count sees the products at all


@pytest.mark.slow
def test_a_convolutional_step_is_smaller_than_autodiffs():
    """Of the forward that a user writes, and of our own; a residual network too."""
    pytest.importorskip("flax")  # one of the networks
    batch = {"x": jnp.zeros((64, 28, 28, 1)), "y": jnp.zeros(64, jnp.int32), "mask": jnp.ones(64)}
    temp = lambda step, state: compiled(jax.jit(step, donate_argnums=0).lower(state, batch)).memory_analysis()
    networks = cnn.networks(64)
    sizes = {name: temp(*networks[name]).temp_size_in_bytes for name in networks if name != "flax"}
    assert sizes["hand"] <= 0.9 * sizes["jax.grad of our forward"]
    assert sizes["hand"] <= 0.4 * sizes["autodiff"]
    model, optimizer = ResNet(outputs=10, channels=(16, 32)).build(), optax.sgd(0.1)
    state = initial_state(model, optimizer, jax.ShapeDtypeStruct((64, 28, 28, 1), jnp.float32), 0)
    hand, auto = (
        temp(make_step(gradient(model, SoftmaxCrossEntropy()), optimizer), state).temp_size_in_bytes
        for gradient in (jaxbp.value_and_grad, autodiff)
    )
    assert hand <= auto


@pytest.mark.slow
def test_stack_memory_can_be_chosen():
    """36 wide blocks: keeping inputs is smaller than keeping caches, and groups of six are smaller still."""
    block = jaxbp.Chain((jaxbp.Dense(256), jaxbp.GELU(), jaxbp.Dense(64), jaxbp.Tanh()))
    spec = jax.ShapeDtypeStruct((512, 64), jnp.float32)

    def temp(keep, gradient=jaxbp.value_and_grad):
        model = jaxbp.Stack(block, 36, keep)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0), spec))
        batch = {"x": spec, "y": spec, "weight": jax.ShapeDtypeStruct((512,), jnp.float32)}
        run = jax.jit(lambda p, b: gradient(model, SquaredError())(p, b).grads)
        return compiled(run.lower(params, batch)).memory_analysis().temp_size_in_bytes

    assert temp("sqrt") < temp("input") < 0.3 * temp("all")
    assert temp("all") < 0.6 * temp("all", autodiff)  # one array a layer instead of every residual


def test_identity_leaves_nothing_in_the_program():
    text = jax.jit(lambda x: jaxbp.Identity().forward({}, x, jaxbp.Context())[0]).lower(jnp.ones(3)).as_text()
    assert "stablehlo.add" not in text
