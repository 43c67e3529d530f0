"""Other nets and other ways to learn them: continuous time, delays, spikes, noise, growth and cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp import credit
from jaxbp.analysis import pruning
from jaxbp.check import worst
from jaxbp.credit import cascade
from jaxbp.credit.cascade import CascadeCorrelation
from jaxbp.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
KEY = jax.random.key(0)
SQUARED = jaxbp.SquaredError()


def drawn(model, shape, seed=0):
    """Parameters in float64 of the model's shapes, and inputs; NumPy's, for JAX's compile once for each shape."""
    draw = np.random.default_rng(seed).normal
    x = draw(size=shape)
    return jax.tree.map(lambda p: draw(size=p.shape) / 2, jax.eval_shape(model.init, KEY, x)), x


# --- time ------------------------------------------------------------------------------------------------------------


def test_recurrent_backpropagation_is_that_through_endless_time():
    """A continuous net's steady state, and the gradient there, are those of 400 steps. No time constant counts."""
    cell = jaxbp.ContinuousCell(4)
    steady = credit.SteadyCell(cell, credit.Relaxer(tolerance=1e-14, steps=1000))
    unfolded = jaxbp.Recurrent(cell, output="last")
    params, x = drawn(steady, (5, 3))
    params["wh"] /= 2

    def gradients(layer, params, x):
        y, cache = layer.forward(params, x)
        dx, grads = layer.backward(params, cache, y)
        return y, dx.reshape(5, -1, 3).sum(1), grads

    run = lambda params, x: (gradients(steady, params, x), gradients(unfolded, params, jnp.repeat(x[:, None], 400, 1)))
    (y, dx, grads), long = jax.jit(run)(params, x)
    heard = x @ params["wx"].T + y @ params["wh"].T - params["threshold"]
    np.testing.assert_allclose(y, np.tanh(params["gain"] * heard), atol=1e-12)
    assert max(np.abs(grads.pop("log_tau")).max(), np.abs(long[2].pop("log_tau")).max()) <= 1e-10
    assert worst((y, dx, grads), long) <= 1e-8


def test_a_step_of_continuous_time_is_exact_for_what_stands_still():
    """Without feedback, ten steps of 0.1 are one of 1, and both are the solution of the differential equation."""
    params, x = drawn(jaxbp.Recurrent(jaxbp.ContinuousCell(4)), (5, 1, 3))
    params["wh"][:] = 0
    layer = lambda dt: jaxbp.Recurrent(jaxbp.ContinuousCell(4, dt=dt), output="last")
    run = lambda x: (layer(1.0).forward(params, x)[0], layer(0.1).forward(params, jnp.repeat(x, 10, 1))[0])
    once, tenths = jax.jit(run)(x)
    value = np.tanh(params["gain"] * (x[:, 0] @ params["wx"].T - params["threshold"]))
    np.testing.assert_allclose(once, value * (1 - np.exp(-np.exp(-params["log_tau"]))), atol=1e-12)
    np.testing.assert_allclose(tenths, once, atol=1e-12)


def test_real_time_recurrent_learning_with_several_delays_is_backpropagation_through_time():
    model = jaxbp.Chain(jaxbp.Recurrent(jaxbp.SimpleCell(3, delays=(1, 2, 4))), jaxbp.Dense(2))
    params, x = drawn(model, (5, 9, 2))
    batch = jaxbp.batch(x, x[:, ::-1])

    def by_loop(params):
        cell, dense = params["00_recurrent"], params["01_dense"]
        h = [jnp.zeros((5, 3))] * 4
        for t in range(9):
            h.append(jnp.tanh(x[:, t] @ cell["wx"].T + cell["b"] + jnp.hstack([h[-1], h[-2], h[-4]]) @ cell["wh"].T))
        y = jnp.stack(h[4:], 1) @ dense["w"].T + dense["b"]
        return jnp.sum((y - batch["y"]) ** 2 * batch["weight"][..., None]) / 2

    @jax.jit
    def gradients(params):
        online = credit.RealTime().gradient(model, SQUARED)(params, batch, credit.carrying(jaxbp.Context(), {}))
        return jax.grad(by_loop)(params), jaxbp.value_and_grad(model, SQUARED)(params, batch).grads, online.grads

    truth, through_time, online = gradients(params)
    assert worst(through_time, truth) <= 1e-12
    assert worst(online, truth) <= 1e-10


# --- growth and cuts -------------------------------------------------------------------------------------------------


def test_a_saliency_has_the_hessians_own_diagonal_in_a_net_of_relu():
    model, loss = jaxbp.models.MLP(3, (4,)).build(), jaxbp.SoftmaxCrossEntropy()
    params, x = drawn(model, (7, 5))
    batch = jaxbp.batch(x, jnp.arange(7) % 3)
    flat, tree_of = ravel_pytree(params)
    value = lambda w: jaxbp.value_and_grad(model, loss)(tree_of(w), batch).value
    run = lambda w: (
        jnp.diag(jax.hessian(value)(w)),
        ravel_pytree(pruning.saliencies(model, loss)(tree_of(w), batch))[0],
    )
    diagonal, saliency = jax.jit(run)(flat)
    np.testing.assert_allclose(saliency, diagonal * flat**2 / 2, atol=1e-14)


def test_a_saliency_less_the_gradients_part_is_what_a_linear_nets_loss_rises_by():
    model = jaxbp.Dense(3, bias=False)
    params, x = drawn(model, (7, 5))
    gradient, batch = jaxbp.value_and_grad(model, SQUARED), jaxbp.batch(x, x[:, :3] ** 2)
    w = jnp.asarray(params["w"])

    def run(w):
        without = lambda k: gradient({"w": w.ravel().at[k].set(0).reshape(w.shape)}, batch).value
        return (
            jax.vmap(without)(jnp.arange(15)),
            gradient({"w": w}, batch),
            pruning.saliencies(model, SQUARED)({"w": w}, batch),
        )

    after, before, saliency = jax.jit(run)(w)
    np.testing.assert_allclose(after.reshape(3, 5), before.value - before.grads["w"] * w + saliency["w"], rtol=1e-12)


def test_a_cut_leaves_the_share_with_the_highest_scores():
    params, _ = drawn(jaxbp.models.MLP(3, (4,)).build(), (7, 5))
    after = pruning.cut(params, pruning.magnitudes(params), 0.25)
    left = np.concatenate([np.ravel(after[name]["w"]) for name in ("01_dense", "03_dense")])
    before = np.concatenate([np.ravel(params[name]["w"]) for name in ("01_dense", "03_dense")])
    assert np.sum(left != 0) == 8  # of 32
    assert np.abs(left[left != 0]).min() >= np.abs(before[left == 0]).max()
    np.testing.assert_array_equal(left[left != 0], before[left != 0])
    np.testing.assert_array_equal(after["01_dense"]["b"], params["01_dense"]["b"])
    with pytest.raises(InputError, match=r"cut: 'w' matches no parameter \(there are: 01_dense/b, 01_dense/w"):
        pruning.cut(params, params, 0.5, "w")
    with pytest.raises(InputError, match=r"cut: left, .* must lie in \[0, 1\], got 50"):
        pruning.cut(params, params, 50)
    with pytest.raises(InputError, match=r"cut: paths must be a regular expression, got '\('"):
        pruning.cut(params, params, 0.5, "(")
    with pytest.raises(InputError, match=r"cut: scores must be like params, 01_dense/b .*; got 01_dense/b"):
        pruning.cut(params, {"01_dense": params["01_dense"]}, 0.5)
    with pytest.raises(InputError, match="cut: 32 of 32 scores are nan"):
        pruning.cut(params, jax.tree.map(lambda w: w * np.nan, params), 0.5)


def test_a_cut_takes_the_weights_of_links_at_any_depth():
    names = ("w", "cell/wx", "cell/wh", "cell/b", "scale", "01_block/00_dense/w")
    after = pruning.cut(dict.fromkeys(names, np.ones(2)), dict.fromkeys(names, np.ones(2)), 0.0)
    assert [name for name in names if np.any(after[name])] == ["cell/b", "scale"]


@pytest.mark.parametrize(
    ("x", "target", "words"),
    [
        (np.ones((4, 2)), np.ones(4), r"needs inputs \[N, I\] and targets \[N, O\], got \[4, 2\] and \[4\]"),
        (np.ones((4, 2)), np.ones((3, 1)), r"got \[4, 2\] and \[3, 1\]"),
        (np.ones((4, 2), int), np.ones((4, 1)), r"of floating-point numbers, got int64\[4, 2\]"),
    ],
    ids=["flat", "lengths", "integers"],
)
def test_rows_that_no_net_can_grow_on_are_refused_in_one_line(x, target, words):
    with pytest.raises(InputError, match=words):
        CascadeCorrelation().grow(x, target, KEY)


def test_a_cascade_grows_one_unit_for_xor():
    bits = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    target = jnp.array([[0.0], [1], [1], [0]])
    draw = np.random.default_rng(0).normal
    arguments = draw(size=(7, 4)), draw(size=(7, 3)), draw(size=4)

    @jax.jit
    def run(bits, *arguments):
        net = CascadeCorrelation(units=1, steps=100).grow(bits, target, KEY)
        gradients = cascade.covariance_gradient(*arguments), jax.grad(cascade.covariance, 2)(*arguments)
        return net.errors, net(bits), gradients

    errors, y, gradients = run(bits, *arguments)
    np.testing.assert_allclose(errors, [0.25, 0], atol=1e-12)
    np.testing.assert_allclose(y, target, atol=1e-6)
    np.testing.assert_allclose(*gradients, rtol=1e-12)


def spirals():
    """Two spirals of 97 points, three turns each (Lang & Witbrock 1988): x [194, 2], t [194, 1] of +-1."""
    i = np.arange(97)
    turn = (6.5 * (104 - i) / 104 * np.array([np.sin(i * np.pi / 16), np.cos(i * np.pi / 16)])).T
    return np.concatenate([turn, -turn]), np.repeat([[1.0], [-1.0]], 97, 0)


@pytest.mark.nightly
def test_a_cascade_tells_two_spirals_apart():
    """From 10 seeds, with 25 units at most; mistakes[k] of the net cut back to its first k units."""
    x, target = spirals()
    counts = []
    for seed in range(10):
        net = CascadeCorrelation(units=25, pool=16, steps=400).grow(x, target, jax.random.key(seed))
        a = cascade.widened(x, 25)
        mistakes = []
        for k, w in enumerate(net.units):
            a = cascade.with_unit(a, w, k - 25)
            outputs = np.linalg.lstsq(a, target)[0]
            mistakes.append(int(((a @ outputs > 0) != (target > 0)).sum()))
        counts.append(mistakes.index(0) + 1)
    print(f"two spirals: {min(counts)} to {max(counts)} units, {np.mean(counts):.1f} on average")


# --- noise -----------------------------------------------------------------------------------------------------------


def test_backpropagation_is_generalized_expectation_maximization():
    """The gradient of a log-likelihood with latent classes h is that of Q at the current weights.

    Q's gradient is two of backpropagation: the posterior of h is the target of one, and the weights of the other.
    """
    gate, experts = jaxbp.Dense(3), jaxbp.Dense(3 * 4, bias=False)
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(7, 5)), np.arange(7) % 4
    params = {
        "gate": {"w": draw.normal(size=(3, 5)), "b": draw.normal(size=3)},
        "experts": {"w": draw.normal(size=(12, 5))},
    }
    loss = jaxbp.SoftmaxCrossEntropy()

    def joint(params):
        """ln p(h, y | x) [N, H]."""
        prior = jax.nn.log_softmax(x @ params["gate"]["w"].T + params["gate"]["b"])
        likelihood = jax.nn.log_softmax((x @ params["experts"]["w"].T).reshape(7, 3, 4))
        return prior + likelihood[jnp.arange(7), :, y]

    @jax.jit
    def both(params):
        posterior = jax.nn.softmax(joint(params))
        of_gate = jaxbp.value_and_grad(gate, loss)(params["gate"], {"x": x, "y": posterior, "weight": jnp.ones(7)})
        split = jaxbp.Chain(experts, jaxbp.Reshape((3, 4)))
        of_experts = jaxbp.value_and_grad(split, loss)(
            {"00_dense": params["experts"], "01_reshape": {}},
            {"x": x, "y": jnp.repeat(y[:, None], 3, 1), "weight": posterior},
        )
        likelihood = lambda params: -jnp.sum(jax.nn.logsumexp(joint(params), 1))
        return {"gate": of_gate.grads, "experts": of_experts.grads["00_dense"]}, jax.grad(likelihood)(params)

    of_q, of_likelihood = both(params)
    assert worst(of_q, of_likelihood) <= 1e-12


def test_noise_that_helps_satisfies_the_inequality():
    draw = np.random.default_rng(0)
    y, target = draw.normal(size=(500, 3)), draw.dirichlet(np.ones(3), 500)
    sides = {  # what the theorems ask to be at least 0
        jaxbp.SoftmaxCrossEntropy(): lambda n: jnp.sum(n * jax.nn.log_softmax(y), 1),
        jaxbp.BinaryCrossEntropy(): lambda n: jnp.sum(n * (jax.nn.log_sigmoid(y) - jax.nn.log_sigmoid(-y)), 1),
        SQUARED: lambda n: -jnp.sum(n * (n - 2 * (y - target)), 1),
    }

    @jax.jit
    def noise():
        rules = credit.NoisyEM(), credit.NoisyEM(blind=True), credit.NoisyEM()
        steps = 0, 0, 9
        return [
            [r.noisy(loss, y, target, s, KEY) - target for r, s in zip(rules, steps, strict=True)] for loss in sides
        ]

    for side, (helpful, blind, late) in zip(sides.values(), noise(), strict=True):
        allowed = side(blind) >= 0
        assert 50 < allowed.sum() < 450
        np.testing.assert_allclose(helpful, jnp.where(allowed[:, None], blind, 0), atol=1e-12)
        assert jnp.abs(late).max() <= jnp.abs(blind).max() / 9.9


def test_a_reparametrized_gradient_is_unbiased():
    """d E[z^2] = (2 m, e^s), within five standard errors of 20,000 draws."""
    x = jnp.broadcast_to(jnp.array([0.7, -0.4]), (20_000, 2))

    def gradients(x):
        z, cache = jaxbp.Gaussian().forward({}, x, jaxbp.Context(KEY))
        return jaxbp.Gaussian().backward({}, cache, 2 * z)[0]

    drawn = jax.jit(gradients)(x)
    error = (drawn.mean(0) - jnp.array([1.4, jnp.exp(-0.4)])) / (drawn.std(0) / 20_000**0.5)
    assert jnp.abs(error).max() < 5


# --- spikes ----------------------------------------------------------------------------------------------------------

SPIKING = jaxbp.Chain(jaxbp.Recurrent(jaxbp.SpikingCell(4, decay=0.8)), jaxbp.Dense(2))


def test_eprop_is_the_sum_of_traces_and_backpropagation_without_feedback():
    params, x = drawn(SPIKING, (5, 9, 3))
    batch = jaxbp.batch(x, x[..., :2])
    unfed = params | {"00_recurrent": params["00_recurrent"] | {"wh": np.zeros((4, 4))}}

    @jax.jit
    def gradients(params, unfed):
        eprop = lambda params: credit.EProp().gradient(SPIKING, SQUARED)(
            params, batch, credit.carrying(jaxbp.Context(), {})
        )
        y = SPIKING.forward(params, x, jaxbp.Context())[0]
        backpropagation = jaxbp.value_and_grad(SPIKING, SQUARED)
        return y, [eprop(p).grads for p in (params, unfed)], [backpropagation(p, batch).grads for p in (params, unfed)]

    y, (traced, alone), (through_time, truth) = gradients(params, unfed)
    assert worst(alone, truth) <= 1e-12
    assert worst(traced["01_dense"], through_time["01_dense"]) <= 1e-12
    assert worst(traced["00_recurrent"], through_time["00_recurrent"]) > 0.01
    cell = params["00_recurrent"]
    z = v = traces = np.zeros((5, 4))
    traces = np.zeros((5, 4, 3 + 4 + 1))  # of a unit's weights to inputs, spikes and one
    total = np.zeros((4, 8))
    spikes = 0
    for t in range(9):
        heard = np.concatenate([x[:, t], z, np.ones((5, 1))], 1)
        slope = 0.3 * np.maximum(0, 1 - np.abs(v - 1)) if t else np.zeros((5, 4))
        traces = (0.8 - slope)[..., None] * traces + heard[:, None]
        v = 0.8 * v + heard @ np.concatenate([cell["wx"], cell["wh"], cell["b"][:, None]], 1).T - z
        z = (v >= 1).astype(float)
        spikes += z.sum()
        delta = (y[:, t] - batch["y"][:, t]) * batch["weight"][0, 0] @ params["01_dense"]["w"]
        total += np.einsum("nh,nhk->hk", delta * 0.3 * np.maximum(0, 1 - np.abs(v - 1)), traces)
    assert 10 < spikes < 170
    by_traces = {"wx": total[:, :3], "wh": total[:, 3:7], "b": total[:, 7]}
    assert worst(traced["00_recurrent"], by_traces) <= 1e-12


def test_the_check_says_that_spikes_have_a_declared_slope():
    params, x = drawn(SPIKING, (3, 4, 2))
    report = jaxbp.check.check_model(SPIKING, SQUARED, params, jaxbp.batch(x, x))
    assert report.passed
    assert "surrogate: recurrent: backward is that of the slope that the layer declares" in str(report)
