"""Transformers as users build them: gradients, causality, single examples, curvature, memory, the first losses."""

import functools
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Chain, Context, Dense, InputError, Reversible, SoftmaxCrossEntropy, SquaredError, Tanh, cast, shaped
from jaxbp.analysis import per_example, products
from jaxbp.backprop import value_and_grad
from jaxbp.check import autodiff, worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.data import epoch_order
from jaxbp.models import GPT, TransformerEncoder, ViT
from jaxbp.optim.kfac import KFAC, kfac
from jaxbp.optim.objective import Objective
from jaxbp.training.step import initial_state, make_step
from tests.support.programs import compiled

pytestmark = pytest.mark.slow

ROWS, TIME = 3, 4
SMALL = {"width": 4, "heads": 2, "depth": 2}
IDS = np.random.default_rng(0).integers(0, 7, (ROWS, TIME)).astype(np.int32)
IMAGES = np.random.default_rng(1).normal(size=(ROWS, 4, 4, 1))
MODELS = {
    "tied": (GPT(7, head="tied", positions="sinusoidal", gelu="tanh", **SMALL), IDS, IDS[:, ::-1]),
    "norm after": (GPT(7, norm="after", positions="rotary", keep="sqrt", **SMALL), IDS, IDS[:, ::-1]),
    "inverse": (GPT(7, keep="inverse", dropout=0.3, context=TIME, **SMALL), IDS, IDS[:, ::-1]),
    "encoder": (TransformerEncoder(3, classes=7, pooling="token", context=TIME + 1, **SMALL), IDS, IDS[:, 0] % 3),
    "vit": (ViT(3, patch=2, context=4, **SMALL), IMAGES, IDS[:, 0] % 3),
}
AT_NIGHT = ("norm after", "encoder", "vit", "inverse")  # what they are made of is in the others, but for the order
EVERY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly) if name in AT_NIGHT else name for name in MODELS]
)
FLOAT64 = pytest.mark.usefixtures("float64")
LOSS = SoftmaxCrossEntropy()
KEY = jax.random.key(3)
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time


@functools.cache
def built(name):
    """-> (model, params in float64 with nothing at 0, batch with unequal weights)."""
    config, x, y = MODELS[name]
    model = config.build()
    params = cast(model.init(KEY, x), jnp.float64)
    generator = np.random.default_rng(5)
    params = jax.tree.map(lambda p: p + generator.normal(size=p.shape) / 4, params)
    return model, params, {"x": x, "y": y, "weight": np.arange(1.0, 1 + y.size).reshape(y.shape)}


@FLOAT64
@EVERY
def test_gradients_and_single_examples(name):
    """The gradient is autodiff's; the norms of single examples, clipping and J^T H J v are those of the definitions."""
    model, params, data = built(name)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def measured(params):
        ctx = Context(KEY)
        x = data["x"]
        f = lambda p: model.forward(p, x, ctx)[0]
        loss = lambda y: LOSS.forward(y, data["y"], data["weight"])[0]
        y, back = jax.vjp(f, params)
        _, u = jax.jvp(f, (params,), (params,))
        curved = back(jax.jvp(jax.grad(loss), (y,), (u,))[1])[0]
        own = lambda n: back(jnp.where((jnp.arange(ROWS) == n).reshape(-1, *(1,) * (y.ndim - 1)), jax.grad(loss)(y), 0))
        alone = jax.lax.map(lambda n: own(n)[0], jnp.arange(ROWS))
        squares = jax.tree.map(lambda g: jnp.sum(g.reshape(ROWS, -1) ** 2, 1), alone)
        norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
        clipped = jax.tree.map(lambda g: jnp.einsum("n...,n->...", g, jnp.minimum(1, 0.5 / norm)), alone)
        hand, auto = value_and_grad(model, LOSS)(params, data, ctx), autodiff(model, LOSS)(params, data, ctx)
        return {
            "gradient": ((hand.value, hand.grads), (auto.value, auto.grads)),
            "norms": (per_example.squared_norms(model, LOSS)(params, data, ctx), squares),
            "clipped": (per_example.clipped_gradient(model, LOSS, 0.5, "sum")(params, data, ctx).grads, clipped),
            "curvature": (products.gauss_newton(model, LOSS)(params, data, params, ctx), curved),
        }

    errors = {what: worst(*pair) for what, pair in measured(params).items()}
    assert {what: error for what, error in errors.items() if error > FLOAT64_TOLERANCE} == {}


@FLOAT64
@pytest.mark.parametrize("name", ["tied", pytest.param("inverse", marks=pytest.mark.nightly)])
def test_a_step_of_kfac(name):
    """Its step makes the loss smaller on the batch that it was made for, or is not taken."""
    model, params, data = built(name)
    params, data = cast(params, jnp.float32), cast(data, jnp.float32)
    data["weight"] = data["weight"] / data["weight"].sum()
    objective = Objective(model, LOSS, spec=shaped(*IDS.shape, dtype=jnp.int32))
    optimizer = kfac(objective, KFAC(damping=0.1))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params):
        ctx = Context(KEY)
        result = objective.gradient()(params, data, ctx)
        moves, _ = optimizer.update(
            result.grads, optimizer.init(params), params, value=result.value, batch=data, ctx=ctx
        )
        return result.value, objective.value(jax.tree.map(jnp.add, params, moves), data, ctx)

    before, after = step(params)
    assert after < before - 0.01


@FLOAT64
@pytest.mark.parametrize("name", ["tied", "norm after", "inverse"])
def test_no_output_sees_a_later_input(name):
    """Outputs before the place of a changed input stay as they are, to the bit."""
    model, params, _ = built(name)
    changed = IDS.copy()
    changed[:, 2] = (changed[:, 2] + 1) % 7
    outputs = jax.jit(lambda x: model.forward(params, x, Context(KEY))[0])
    y, other = outputs(IDS), outputs(changed)
    np.testing.assert_array_equal(y[:, :2], other[:, :2])
    assert (y[:, 2:] != other[:, 2:]).any()


# --- Reversible blocks -------------------------------------------------------------------------------------------


def temp(model, spec):
    params = jax.eval_shape(lambda: model.init(KEY, spec))
    data = {"x": spec, "y": spec, "weight": shaped(*spec.shape[:-1])}
    program = compiled(jax.jit(value_and_grad(model, SquaredError())).lower(params, data))
    return program.memory_analysis().temp_size_in_bytes


def test_the_memory_of_reversible_blocks_does_not_grow_with_their_number():
    spec = shaped(256, 32)
    body = Chain(Dense(64), Tanh(), Dense(16))
    shallow, deep = (temp(Reversible(body, body, depth), spec) for depth in (2, 20))
    parameters = 18 * 2 * (2 * 64 * 16 + 64 + 16) * 4  # of the blocks more
    assert deep - shallow <= parameters + 4096
    assert shallow > 256 * 64 * 4  # the cache of a block at least


@FLOAT64
def test_the_inverse_is_exact_to_rounding():
    """The activations after going back through 16 blocks are those that went in, to 1e-5 in float32."""
    model = Reversible(Chain(Dense(8), Tanh(), Dense(4)), Chain(Tanh(), Dense(4)), 16)
    x = jax.random.normal(KEY, (5, 8))
    params = model.init(KEY, x)
    gradient = lambda params, x, layer: layer.backward(params, layer.forward(params, x, Context())[1], x)
    hand = jax.jit(functools.partial(gradient, layer=model))(params, x)
    exact = jax.jit(functools.partial(gradient, layer=model))(cast(params, jnp.float64), cast(x, jnp.float64))
    assert worst(cast(hand, jnp.float64), exact) <= 1e-5


def test_what_does_not_fit():
    with pytest.raises(InputError, match="heads must divide width=5"):
        ViT(3, width=5)
    with pytest.raises(InputError, match="keep='inverse' needs norm='before'"):
        GPT(3, keep="inverse", norm="after")
    with pytest.raises(InputError, match="head must be 'free'"):
        GPT(3, keep="inverse", head="tied")
    with pytest.raises(InputError, match="the last axis must be even, got 3"):
        Reversible(Dense(1), Dense(1), 2).init(KEY, shaped(5, 3))


# --- The config of the small GPT ---------------------------------------------------------------------------------

FIRST_TEN = [5.119692, 5.030156, 4.891622, 4.019533, 3.526208, 3.21153, 3.291999, 3.178814, 3.153259, 3.088838]


def test_the_first_ten_losses_of_shakespeare_gpt():
    """On the text of the licence, so that no file is needed; each is the loss of a batch before its step."""
    root = Path(__file__).parents[2]
    config = runpy.run_path(str(root / "configs/shakespeare_gpt.py"))["get_config"]()
    train = replace(config.data, path=str(root / "LICENSE")).load().train
    model, loss = config.build_model(), config.loss
    optimizer = config.build_optimizer(20, None)
    order, _ = epoch_order(0, 0, len(train), config.run.batch_size)
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)
    state = initial_state(model, optimizer, x[:12], seed=0)
    step = jax.jit(make_step(config.optimizer.gradient(model, loss), optimizer))
    losses = []
    for rows in order[:10]:
        state = step(
            replace(state, loss_sum=jnp.zeros(()), examples=jnp.zeros(())),
            {"x": x[rows], "y": y[rows], "mask": jnp.ones((12, 64))},
        )
        losses.append(float(state.loss_sum / state.examples))
    np.testing.assert_allclose(losses, FIRST_TEN, rtol=1e-4)
