"""Normalizations: running statistics, both modes, hard inputs, PyTorch beside them, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.errors import InputError
from tests.support.programs import compiled

ALONE = [jaxbp.LayerNorm(), jaxbp.GroupNorm(3), jaxbp.RMSNorm()]  # no example sees another
ALL = [jaxbp.BatchNorm(), jaxbp.BatchNormReLU(), *ALONE]


def prepared(layer, shape, dtype=jnp.float64, key=0):
    """(params, x, dy, state) with jittered parameters."""
    keys = jax.random.split(jax.random.key(key), 4)
    spec = jax.ShapeDtypeStruct(shape, dtype)
    jitter = lambda p: p.astype(dtype) + 0.3 * jax.random.normal(keys[p.size % 2], p.shape, dtype)
    params = jax.tree.map(jitter, layer.init(keys[0], spec))
    x, dy = (jax.random.normal(k, shape, dtype) for k in keys[2:])
    return params, 2 * x + 1, dy, jaxbp.cast(layer.init_state(spec), dtype)


@functools.partial(jax.jit, static_argnums=0)
def run(layer, params, x, dy, ctx=jaxbp.Context()):
    """(y, dx, grads, cache) of the layer."""
    y, cache = layer.forward(params, x, ctx)
    return y, *layer.backward(params, cache, dy), cache


def test_running_statistics_after_three_steps(strict):
    layer = jaxbp.BatchNorm(momentum=0.8)
    params, _, _, state = prepared(layer, (5, 2, 3))
    batches = jax.random.normal(jax.random.key(1), (3, 5, 2, 3), jnp.float64) * 3 + 1
    mean, variance = np.zeros(3), np.ones(3)
    for x in batches:
        _, cache = layer.forward(params, x, jaxbp.Context(None, state))
        state = layer.next_state(state, cache)
        rows = np.asarray(x).reshape(-1, 3)
        mean, variance = 0.8 * mean + 0.2 * rows.mean(0), 0.8 * variance + 0.2 * rows.var(0, ddof=1)
    assert worst(state, {"mean": mean, "variance": variance}) <= FLOAT64_TOLERANCE
    y, cache = layer.forward(params, x, jaxbp.Context(None, state, train=False))
    formula = (rows - mean) / np.sqrt(variance + 1e-5) * params["scale"][None] + params["bias"][None]
    assert worst(y.reshape(-1, 3), formula) <= FLOAT64_TOLERANCE
    assert layer.next_state(state, cache) is state


def test_running_statistics_forget_the_start():
    """With one batch again and again they become that batch's own, and evaluation does as training did."""
    layer = jaxbp.BatchNorm(momentum=0.5)
    params, x, _, state = prepared(layer, (64, 3), jnp.float32)
    y, cache = layer.forward(params, x, jaxbp.Context(None, state))
    for _ in range(30):
        state = layer.next_state(state, cache)
    evaluated, _ = layer.forward(params, x, jaxbp.Context(None, state, train=False))
    np.testing.assert_allclose(evaluated, y, atol=0.05)  # unbiased variance against biased


@pytest.mark.slow
def test_state_is_carried_by_a_model():
    """Through chain, stack and value_and_grad; nothing changes in evaluation."""
    block = jaxbp.Chain((jaxbp.Dense(3), jaxbp.BatchNormReLU()))
    model = jaxbp.Chain((jaxbp.BatchNorm(), jaxbp.Stack(block, 2)))
    spec = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    params, state = model.init(jax.random.key(0), spec), model.init_state(spec)
    x = jax.random.normal(jax.random.key(1), (5, 3)) + 1
    batch = {"x": x, "y": jnp.zeros((5, 3)), "weight": jnp.full(5, 0.2)}
    step = jax.jit(jaxbp.value_and_grad(model, jaxbp.losses.SquaredError()))
    after = step(params, batch, jaxbp.Context(None, state)).state
    moved = jax.tree.map(lambda old, new: float(jnp.abs(new - old).max()), state, after)  # a mean may be 0
    assert min(jax.tree.leaves(moved)) > 0
    evaluated = step(params, batch, jaxbp.Context(None, after, train=False)).state
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), evaluated, after))


@pytest.mark.slow
def test_a_bias_before_batch_norm_has_no_gradient(strict):
    model = jaxbp.Chain((jaxbp.Dense(3), jaxbp.BatchNorm()))
    params, x, _, state = prepared(model, (5, 2))
    dy = jax.random.normal(jax.random.key(3), (5, 3), jnp.float64)
    _, _, grads, _ = run(model, params, x, dy, jaxbp.Context(None, state))
    name = next(name for name in grads if "dense" in name)
    assert jnp.abs(grads[name]["b"]).max() < 1e-13 * jnp.abs(grads[name]["w"]).max()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ALL, ids=jaxbp.core.label)
def test_equal_entries_give_the_bias_and_finite_gradients(layer):
    params, x, dy, state = prepared(layer, (2, 7, 6), jnp.float32)
    y, dx, grads, _ = run(layer, params, jnp.zeros_like(x), dy, jaxbp.Context(None, state))
    bias = params.get("bias", jnp.zeros(6))
    bias = jnp.maximum(bias, 0) if isinstance(layer, jaxbp.BatchNormReLU) else bias
    np.testing.assert_allclose(y, jnp.broadcast_to(bias, y.shape))
    y, dx, grads, _ = run(layer, params, jnp.full_like(x, 3.3), dy, jaxbp.Context(None, state))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((y, dx, grads)))


@pytest.mark.slow
@pytest.mark.parametrize("layer", [jaxbp.BatchNorm(), jaxbp.LayerNorm(), jaxbp.GroupNorm(3)], ids=jaxbp.core.label)
def test_a_large_mean_costs_no_digits_but_the_inputs_own(strict, layer):
    """x = 1e4 + noise, exactly representable: float32 is near float64, where mean x^2 - m^2 has no digit left."""
    params, x, dy, state = prepared(layer, (16, 7, 6), jnp.float32)
    x = 1e4 + jnp.round(x * 32) / 32
    wide = jaxbp.cast((params, x, dy, state), jnp.float64)
    y, dx, grads, _ = run(layer, params, x, dy, jaxbp.Context(None, state))
    y_wide, dx_wide, grads_wide, _ = run(layer, *wide[:3], jaxbp.Context(None, wide[3]))
    assert worst(y, y_wide) < 1e-3
    assert worst((dx, grads), (dx_wide, grads_wide)) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("layer", ALONE, ids=jaxbp.core.label)
def test_a_batch_of_one_and_each_example_alone(strict, layer):
    params, x, dy, _ = prepared(layer, (5, 2, 6))
    y, dx, grads, cache = run(layer, params, x, dy)
    example_grads = layer.sweep(jaxbp.rules.example_gradients, params, cache, dy)[1]
    factors = layer.sweep(jaxbp.rules.factors, params, cache, dy)[1]
    for n in range(5):
        row = slice(n, n + 1)
        y_row, dx_row, grads_row, _ = run(layer, params, x[row], dy[row])
        assert worst((y_row, dx_row), (y[row], dx[row])) <= FLOAT64_TOLERANCE
        assert worst(grads_row, {name: g[n] for name, g in example_grads.items()}) <= FLOAT64_TOLERANCE
    assert set(factors) == set(params)
    assert worst({k: f.gradient().reshape(-1) for k, f in factors.items()}, grads) <= FLOAT64_TOLERANCE


def test_batch_norm_of_one_row_is_its_bias_and_keeps_the_state_finite():
    layer = jaxbp.BatchNorm()
    params, x, dy, state = prepared(layer, (1, 3), jnp.float32)
    y, dx, _, cache = run(layer, params, x, dy, jaxbp.Context(None, state))
    np.testing.assert_allclose(y[0], params["bias"])
    np.testing.assert_allclose(dx, 0, atol=1e-6)
    np.testing.assert_allclose(layer.next_state(state, cache)["variance"], 0.9)


def test_per_example_rules_refuse_batch_norm():
    layer = jaxbp.BatchNorm()
    params, x, dy, state = prepared(layer, (5, 3), jnp.float32)
    _, cache = layer.forward(params, x, jaxbp.Context(None, state))
    with pytest.raises(InputError, match="'batchnorm' mixes the examples"):
        layer.sweep(jaxbp.rules.example_gradients, params, cache, dy)


@pytest.mark.slow
def test_groups_of_one_channel_and_of_all():
    """One group over [N, C] is layer normalization; C groups normalize every channel of every image."""
    params, x, dy, _ = prepared(jaxbp.LayerNorm(), (5, 6), jnp.float32)
    group, whole = (run(layer, params, x, dy)[:3] for layer in (jaxbp.GroupNorm(1), jaxbp.LayerNorm()))
    assert worst(group, whole) < 1e-6
    y, _ = jaxbp.GroupNorm(6).forward(
        params | {"scale": jnp.ones(6), "bias": jnp.zeros(6)},
        jax.random.normal(jax.random.key(0), (2, 11, 6)),
        jaxbp.Context(),
    )
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(1), 1, atol=1e-3)


def test_fused_relu_is_batch_norm_then_relu():
    fused, norm, relu = jaxbp.BatchNormReLU(), jaxbp.BatchNorm(), jaxbp.ReLU()
    params, x, dy, state = prepared(fused, (5, 2, 3), jnp.float32)
    y, dx, grads, cache = run(fused, params, x, dy, jaxbp.Context(None, state))
    z, norm_cache = norm.forward(params, x, jaxbp.Context(None, state))
    y_relu, mask = relu.forward({}, z, jaxbp.Context())
    dz, _ = relu.backward({}, mask, dy)
    assert worst((y, (dx, grads)), (y_relu, norm.backward(params, norm_cache, dz))) == 0
    assert worst(fused.next_state(state, cache), norm.next_state(state, norm_cache)) == 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: jaxbp.BatchNorm(momentum=1.5), "BatchNorm: momentum must be from 0 to 1, got 1.5"),
        (lambda: jaxbp.BatchNormReLU(epsilon=0), "BatchNormReLU: epsilon must be positive, got 0"),
        (lambda: jaxbp.LayerNorm(-1.0), "LayerNorm: epsilon must be positive, got -1.0"),
        (lambda: jaxbp.GroupNorm(0), "GroupNorm: groups must be at least 1, got 0"),
        (
            lambda: jaxbp.GroupNorm(4).init(jax.random.key(0), jax.ShapeDtypeStruct((5, 6), jnp.float32)),
            "GroupNorm: groups must divide the 6 channels, got 4",
        ),
        (
            lambda: run(
                jaxbp.BatchNorm(),
                *prepared(jaxbp.BatchNorm(), (5, 3), jnp.float32)[:3],
                jaxbp.Context(None, None, train=False),
            ),
            "BatchNorm: evaluation needs running statistics",
        ),
    ],
)
def test_bad_input_is_one_clear_line(make, text):
    with pytest.raises(InputError, match=text):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("layer", ALL, ids=jaxbp.core.label)
def test_never_larger_than_autodiff(layer):
    """Temporary bytes of forward and backward together, beside jax.grad of the same forward."""
    params, x, dy, state = prepared(layer, (256, 96), jnp.float32)
    ctx = jaxbp.Context(None, state)

    def auto(params, x, dy):
        y, back = jax.vjp(lambda p, x: layer.forward(p, x, ctx)[0], params, x)
        return y, back(dy)

    hand = lambda params, x, dy: run(layer, params, x, dy, ctx)[:3]
    temp = lambda f: compiled(jax.jit(f).lower(params, x, dy)).memory_analysis().temp_size_in_bytes
    assert temp(hand) <= temp(auto)


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_against_pytorch(strict, train):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0 for this oracle")
    layer = jaxbp.BatchNorm(momentum=0.9)
    params, x, dy, state = prepared(layer, (5, 2, 7, 3))
    state = jax.tree.map(lambda s: s + 0.5, state)
    tensor = lambda a, grad=True: torch.tensor(np.asarray(a), requires_grad=grad)
    there, scale, bias = tensor(jnp.moveaxis(x, -1, 1)), tensor(params["scale"]), tensor(params["bias"])
    running = [tensor(state[name], False) for name in ("mean", "variance")]
    y = torch.nn.functional.batch_norm(there, *running, scale, bias, train, 0.1, layer.epsilon)
    y.backward(tensor(jnp.moveaxis(dy, -1, 1), False))
    y_ours, dx, grads, cache = run(layer, params, x, dy, jaxbp.Context(None, state, train))
    image = lambda a: jnp.moveaxis(jnp.asarray(a.detach().numpy()), 1, -1)
    theirs = (
        image(y),
        image(there.grad),
        {"scale": scale.grad.numpy(), "bias": bias.grad.numpy()},
        {"mean": running[0].numpy(), "variance": running[1].numpy()},
    )
    assert worst((y_ours, dx, grads, layer.next_state(state, cache)), theirs) <= FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layer", [*ALONE, jaxbp.LayerNorm(1e-3, bias=False), jaxbp.GroupNorm(2, 1e-3)], ids=str)
def test_against_pytorch(strict, layer):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0 for this oracle")
    params, x, dy, _ = prepared(layer, (5, 7, 6))
    tensor = lambda a: torch.tensor(np.asarray(a), requires_grad=True)
    there = tensor(x)
    weights = {name: tensor(p) for name, p in params.items()}
    scale, bias, functional = weights.get("scale"), weights.get("bias"), torch.nn.functional
    if isinstance(layer, jaxbp.GroupNorm):
        y = functional.group_norm(there.movedim(-1, 1), layer.groups, scale, bias, layer.epsilon).movedim(1, -1)
    elif isinstance(layer, jaxbp.LayerNorm):
        y = functional.layer_norm(there, (6,), scale, bias, layer.epsilon)
    else:
        y = functional.rms_norm(there, (6,), scale, layer.epsilon)
    y.backward(tensor(dy).detach())
    theirs = (y.detach().numpy(), there.grad.numpy(), {name: w.grad.numpy() for name, w in weights.items()})
    assert worst(run(layer, params, x, dy)[:3], theirs) <= FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("layer", ALL, ids=jaxbp.core.label)
def test_many_rows(strict, layer):
    """More rows than the CPU's fused reductions have miscounted in the past (32 768)."""
    params, x, dy, state = prepared(layer, (32771, 6), jnp.float32)
    ctx = jaxbp.Context(None, state)
    hand = jax.jit(lambda params, x, dy: run(layer, params, x, dy, ctx)[:3])(params, x, dy)
    params, x, dy = jaxbp.cast((params, x, dy), jnp.float64)
    y, back = jax.vjp(lambda params, x: layer.forward(params, x, ctx)[0], params, x)
    grads, dx = back(dy)
    assert worst(hand, (y, dx, grads)) < 1e-4
