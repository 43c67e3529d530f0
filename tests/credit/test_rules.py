"""Credit rules that are a sweep: where theory says that they are backpropagation, they are."""

import functools
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import credit
from jaxbp.check import worst
from jaxbp.core import cast
from jaxbp.credit.links import link_weights, picked, replaced
from jaxbp.errors import InputError

pytestmark = pytest.mark.usefixtures("float64")
KEY = jax.random.key(0)
LOSS = jaxbp.SoftmaxCrossEntropy()
DENSE = jaxbp.Chain(jaxbp.Dense(5), jaxbp.Tanh(), jaxbp.Dense(4), jaxbp.Tanh(), jaxbp.Dense(3))
TIED = jaxbp.Graph(
    (
        jaxbp.Node("a", jaxbp.Dense(2), ("x",)),
        jaxbp.Node("bend", jaxbp.Tanh(), ("a",)),
        jaxbp.Node("b", jaxbp.Dense(2), ("bend",), shares="a"),
        jaxbp.Node("join", jaxbp.Concatenate(), ("b", "a")),
        jaxbp.Node("out", jaxbp.Dense(3), ("join",)),
    )
)
STACK = jaxbp.Stack(jaxbp.Chain(jaxbp.Dense(4), jaxbp.Tanh()), 2)
HEAD = (jaxbp.MaxPool((2, 2)), jaxbp.Flatten(), jaxbp.Dense(3))
CONV = jaxbp.Chain(jaxbp.Conv(2, (2, 2)), jaxbp.BatchNorm(), jaxbp.Tanh(), jaxbp.Conv(3, (3, 2)), *HEAD)
GRU = jaxbp.Chain(jaxbp.Recurrent(jaxbp.GRUCell(3), output="last"), jaxbp.Dense(3))
MODELS = {  # name: (model, shape of a batch)
    "dense": (DENSE, (7, 2)),
    "stack": (jaxbp.Chain(jaxbp.Dense(4), STACK, jaxbp.Dense(3)), (7, 2)),
    "conv": (CONV, (7, 4, 4, 1)),
    "recurrent": (GRU, (7, 4, 2)),
    "tied": (TIED, (7, 2)),
}


@functools.cache
def setting(name):
    """(model, params, batch, context, spec, backpropagation)."""
    model, shape = MODELS[name]
    spec = jax.ShapeDtypeStruct(shape, jnp.float64)
    params = cast(model.init(KEY, spec), jnp.float64)
    batch = jaxbp.batch(jax.random.normal(KEY, shape, jnp.float64), jnp.arange(7) % 3)
    ctx = jaxbp.Context(KEY, model.init_state(spec))
    return model, params, batch, ctx, spec, jax.jit(jaxbp.value_and_grad(model, LOSS))(params, batch, ctx)


def direction(rule, name, kept=None, params=None):
    """What the rule makes of the setting, with what it keeps at first, or `kept`."""
    model, own, batch, ctx, spec, _ = setting(name)
    params = own if params is None else params
    kept = rule.init_state(KEY, params, model, spec) if kept is None else kept
    return jax.jit(rule.gradient(model, LOSS))(params, batch, credit.carrying(ctx, kept))


def nightly(*names):
    """Cases that only repeat at scale what others show."""
    return [pytest.param(name, marks=pytest.mark.nightly) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "conv", "recurrent", *nightly("stack", "tied")])
def test_feedback_through_the_weights_themselves_is_backpropagation(name):
    model, params, _, _, spec, truth = setting(name)
    result = direction(credit.FeedbackAlignment(), name, link_weights("", model, params, spec))
    assert worst(result.grads, truth.grads) <= 1e-12
    assert worst((result.value, result.output, result.state.model), (truth.value, truth.output, truth.state)) <= 1e-12
    other = direction(credit.FeedbackAlignment(), name).grads
    assert worst(other, truth.grads) > 0.1
    *_, last = (path for path in params if params[path])
    assert worst(other[last], truth.grads[last]) <= 1e-12  # its delta is the loss's own


@pytest.mark.slow
def test_equal_magnitudes_make_uniform_signs_backpropagation():
    model, params, batch, ctx, spec, _ = setting("dense")
    links = link_weights("", model, params, spec)
    params = replaced(params, jax.tree.map(lambda w: jnp.sign(w) * jnp.mean(jnp.abs(w)), links))
    truth = jaxbp.value_and_grad(model, LOSS)(params, batch, ctx)
    assert worst(direction(credit.SignSymmetric(), "dense", params=params).grads, truth.grads) <= 1e-12
    backward = {}
    for magnitudes in ("uniform", "batch", "fixed"):
        rule = credit.SignSymmetric(magnitudes)
        kept = rule.init_state(KEY, params, model, spec)
        backward[magnitudes] = rule.backward_weights(picked(params, kept), kept, ctx)
        same = jax.tree.map(lambda b, w: bool(jnp.all(jnp.sign(b) == jnp.sign(w))), backward[magnitudes], links)
        assert jax.tree.all(same)
    rule = credit.SignSymmetric("batch")
    kept = rule.init_state(KEY, params, model, spec)
    again = rule.backward_weights(picked(params, kept), kept, jaxbp.Context(jax.random.key(1)))
    assert worst(again, backward["batch"]) > 0.1  # drawn anew at every step


def test_kolen_pollacks_weights_meet_at_the_rate_of_the_decay():
    rule = credit.KolenPollack(decay=0.1)
    random = np.random.default_rng(0)
    draw = lambda: {"layer": {"w": random.normal(size=(3, 2)), "b": random.normal(size=3)}}
    params = draw()
    kept = first = {"layer": {"w": draw()["layer"]["w"]}}
    bias = params["layer"]["b"]
    apart = params["layer"]["w"] - first["layer"]["w"]
    for _ in range(20):
        change = draw()
        updates, kept = rule.update(change, params, kept)
        params = jax.tree.map(np.add, params, updates)
        bias = bias + change["layer"]["b"]
    np.testing.assert_allclose(params["layer"]["w"] - kept["layer"]["w"], 0.9**20 * apart, rtol=1e-12)
    np.testing.assert_array_equal(params["layer"]["b"], bias)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", *nightly("conv")])
def test_a_mirrors_mean_is_the_weights(name):
    """The mean of 400 steps is within five of its standard errors of W, but for taps at the rim of a padded image."""
    model, params, batch, ctx, spec, _ = setting(name)
    rule = credit.WeightMirror(rate=0.5)
    kept = rule.init_state(KEY, params, model, spec)
    gradient = rule.gradient(model, LOSS)

    @jax.jit
    def steps(kept):
        step = lambda kept, key: (
            gradient(params, batch, credit.carrying(jaxbp.Context(key, ctx.state), kept)).state.credit,
        )
        seen = jax.vmap(lambda key: step(kept, key)[0])(jax.random.split(KEY, 400))
        return jax.tree.map(lambda b, first: 2 * b - first, seen, kept)  # what one step has seen alone

    seen = steps(kept)
    assert jax.tree.structure(seen) == jax.tree.structure(kept)
    for path, w in picked(params, kept).items():
        if not w or (name == "conv" and path != "06_dense"):
            continue
        error = (seen[path]["w"].mean(0) - w["w"]) / (seen[path]["w"].std(0) / 20)
        assert jnp.max(jnp.abs(error)) < 5


@pytest.mark.slow
def test_direct_feedback_projects_the_error():
    model, params, batch, ctx, spec, truth = setting("dense")
    rule = credit.DirectFeedbackAlignment()
    kept = rule.init_state(KEY, params, model, spec)
    grads = direction(rule, "dense", kept).grads
    assert worst(grads["04_dense"], truth.grads["04_dense"]) <= 1e-12
    y, cache = model.forward(params, batch["x"], ctx)
    error = jax.nn.softmax(y) / 7 - jax.nn.one_hot(batch["y"], 3) / 7
    for below, link, bend in (("00_dense", "02_dense", "01_tanh"), ("02_dense", "04_dense", "03_tanh")):
        delta = (error @ kept[link]["feedback"]) * (1 - cache[bend] ** 2)
        assert worst(grads[below], {"w": delta.T @ cache[below], "b": delta.sum(0)}) <= 1e-12
    assert jax.tree.map(jnp.shape, direction(rule, "conv").grads) == jax.tree.map(jnp.shape, setting("conv")[1])


def test_a_split_error_is_neither_more_nor_less():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
    shares = credit.ErrorSplit().shares(w)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(shares[0] * jnp.abs(w[0]).sum(), jnp.abs(w[0]), rtol=1e-12)
    assert jnp.all(credit.ErrorSplit().shares(jnp.zeros((2, 3))) == 0)


@pytest.mark.slow
def test_a_transposed_split_is_exact_in_one_hidden_layer():
    model = jaxbp.Chain(jaxbp.Dense(5), jaxbp.Tanh(), jaxbp.Dense(3))
    _, _, batch, ctx, spec, _ = setting("dense")
    params = cast(model.init(KEY, spec), jnp.float64)
    truth = jaxbp.value_and_grad(model, LOSS)(params, batch, ctx)
    split = credit.ErrorSplit("transpose").gradient(model, LOSS)(params, batch, credit.carrying(jaxbp.Context(), {}))
    assert worst(split.grads, truth.grads) <= 1e-12
    assert worst(direction(credit.ErrorSplit("transpose"), "dense").grads, setting("dense")[-1].grads) > 0.01
    tied = direction(credit.ErrorSplit(), "tied").grads
    assert jax.tree.map(jnp.shape, tied) == jax.tree.map(jnp.shape, setting("tied")[1])


@pytest.mark.slow
def test_forward_gradients_are_unbiased():
    """The mean of 10,000 is within five of its standard errors of the gradient, entry by entry."""
    truth = jnp.concatenate([g.ravel() for g in jax.tree.leaves(setting("tied")[-1].grads)])
    model, params, batch, ctx, *_ = setting("tied")
    gradient = credit.ForwardGradient().gradient(model, LOSS)
    draw = lambda key: gradient(params, batch, credit.carrying(jaxbp.Context(key, ctx.state), {})).grads
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 10_000))
    drawn = jnp.concatenate([g.reshape(10_000, -1) for g in jax.tree.leaves(drawn)], 1)
    assert jnp.max(jnp.abs(drawn.mean(0) - truth) / (drawn.std(0) / 100)) < 5
    many = credit.ForwardGradient(directions=4).gradient(model, LOSS)
    few = jax.jit(many)(params, batch, credit.carrying(ctx, {}))
    assert worst(few.value, setting("tied")[-1].value) <= 1e-12


@pytest.mark.slow
def test_forward_forward_descends_each_stages_own_goodness():
    """jax.grad of the losses that the docstring names, and the loss's own gradient in the last stage."""
    model, params, batch, ctx, spec, truth = setting("dense")
    rule = credit.ForwardForward()
    kept = cast(rule.init_state(KEY, params, model, spec), jnp.float64)
    result = direction(rule, "dense", kept)
    assert worst((result.value, result.grads["04_dense"]), (truth.value, truth.grads["04_dense"])) <= 1e-12
    other = (batch["y"] + jax.random.randint(ctx.draw("noise"), (7,), 1, 3)) % 3
    assert not jnp.any(other == batch["y"])

    def local(params):
        total = 0
        for label, sign in ((batch["y"], 1), (other, -1)):
            h = batch["x"] + kept["code"][label]
            for name in ("00_dense", "02_dense"):
                h = jnp.tanh(jax.lax.stop_gradient(h) @ params[name]["w"].T + params[name]["b"])
                total += jnp.sum(jax.nn.softplus(sign * (rule.threshold - jnp.mean(h * h, 1)))) / 7
        return total

    own = jax.grad(local)(params)
    assert worst([result.grads[name] for name in ("00_dense", "02_dense")], [own["00_dense"], own["02_dense"]]) <= 1e-12
    targets = jaxbp.batch(batch["x"], jnp.ones((7, 3)))
    with pytest.raises(InputError, match="ForwardForward needs labels, whole numbers, got targets of float64"):
        rule.gradient(model, LOSS)(params, targets, credit.carrying(ctx, kept))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["last", *nightly("sequence")])
def test_real_time_recurrent_learning_is_backpropagation_through_time(output):
    model = jaxbp.Chain(jaxbp.Dense(3), jaxbp.Recurrent(jaxbp.LSTMCell(2), output=output), jaxbp.Dense(3))
    spec = jax.ShapeDtypeStruct((7, 4, 2), jnp.float64)
    params = cast(model.init(KEY, spec), jnp.float64)
    y = jnp.arange(7) % 3 if output == "last" else jnp.arange(28).reshape(7, 4) % 3
    batch = jaxbp.batch(jax.random.normal(KEY, spec.shape, jnp.float64), y)
    truth = jax.jit(jaxbp.value_and_grad(model, LOSS))(params, batch)
    online = jax.jit(credit.RealTime().gradient(model, LOSS))(params, batch, credit.carrying(jaxbp.Context(), {}))
    assert worst(online.grads, truth.grads) <= 1e-10


REFUSED = {
    "FeedbackAlignment is not defined for Attention, only for Dense, Conv, ConvTranspose, Recurrent: its delta": (
        credit.FeedbackAlignment(),
        jaxbp.Chain(jaxbp.Attention(2)),
        (3, 4, 2),
    ),
    "WeightMirror is not defined for Recurrent, only for Dense, Conv, ConvTranspose: its weights act inside": (
        credit.WeightMirror(),
        GRU,
        (3, 4, 2),
    ),
    "DirectFeedbackAlignment is not defined for Recurrent, only for Dense, Conv, ConvTranspose: the delta of": (
        credit.DirectFeedbackAlignment(),
        GRU,
        (3, 4, 2),
    ),
    "FeedbackAlignment needs Recurrent(keep='all'), which makes no state again, got keep='sqrt'": (
        credit.FeedbackAlignment(),
        jaxbp.Recurrent(jaxbp.GRUCell(2), keep="sqrt"),
        (3, 4, 2),
    ),
    "DirectFeedbackAlignment needs outputs [N, O], and the model has [3, 4, 2]": (
        credit.DirectFeedbackAlignment(),
        jaxbp.Dense(2),
        (3, 4, 2),
    ),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_defined_is_refused_with_its_reason(line):
    rule, model, shape = REFUSED[line]
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(model.init, KEY, spec)
    with pytest.raises(InputError) as error:
        jax.eval_shape(lambda params: rule.init_state(KEY, params, model, spec), params)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rule", "layer"),
    [
        (credit.DirectFeedbackAlignment(), jaxbp.NeuralODE(jaxbp.Dense(2))),
        (credit.ErrorSplit(), jaxbp.NeuralODE(jaxbp.Dense(2))),
        (credit.ErrorSplit(), jaxbp.Reversible(jaxbp.Dense(1), jaxbp.Dense(1), 2)),
    ],
)
def test_a_combinator_that_a_rule_cannot_pass_through_is_refused(rule, layer):
    line = f"^{type(rule).__name__} is not defined for {type(layer).__name__}: "
    with pytest.raises(InputError, match=line):
        rule.gradient(jaxbp.Chain(layer, jaxbp.Dense(3)), LOSS)


def test_eprop_refuses_gates_that_reset_what_other_units_hear():
    model = jaxbp.Recurrent(jaxbp.GRUCell(2, reset="before"))
    params = jax.eval_shape(model.init, KEY, jaxbp.shaped(3, 4, 2))
    batch = {"x": jaxbp.shaped(3, 4, 2), "y": jaxbp.shaped(3, 4, 2), "weight": jaxbp.shaped(3, 4)}
    run = credit.EProp().gradient(model, jaxbp.SquaredError())
    with pytest.raises(InputError, match=r"^EProp needs GRUCell\(reset='after'\)"):
        jax.eval_shape(lambda *a: run(*a, credit.carrying(jaxbp.Context(), {})), params, batch)


KEYS = {  # rule: its keys' other values, each of which must change what three steps lead to
    credit.FeedbackAlignment(): {"scale": 2.0},
    credit.SignSymmetric(): {"magnitudes": "fixed", "scale": 2.0},
    credit.KolenPollack(): {"decay": 0.1, "scale": 2.0},
    credit.WeightMirror(): {"rate": 0.5, "scale": 2.0},
    credit.DirectFeedbackAlignment(): {"scale": 2.0},
    credit.ErrorSplit(): {"share": "transpose"},
    credit.ForwardForward(): {"threshold": 2.0, "scale": 1.0},
    credit.ForwardGradient(): {"directions": 2},
    credit.PredictiveCoding(): {"predictions": "fixed", "nudge": 2.0, "relaxer": credit.Relaxer(steps=1)},
    credit.DifferenceTargetPropagation(): {"activation": "identity", "rate": 1.0, "inverse_rate": 1.0, "noise": 1.0},
    credit.EquilibriumPropagation(): {"nudge": 1.0, "sides": "one"},
    credit.ContrastiveHebbian(): {},
    credit.RealTime(): {},
    credit.EProp(): {},
    credit.NoisyEM(): {"scale": 1.0, "annealing": 0.1, "blind": True},
}
NETS = {credit.EquilibriumPropagation(): jaxbp.Chain(credit.FeedbackNet((4, 3)))}


def test_every_rule_and_key_is_in_the_table():
    rules = {kind for kind in vars(credit).values() if isinstance(kind, type) and issubclass(kind, credit.Credit)}
    keys = {kind: {field.name for field in fields(kind)} for kind in rules - {credit.Credit, credit.Backpropagation}}
    assert keys == {type(rule): others.keys() for rule, others in KEYS.items()}


@pytest.mark.nightly
@pytest.mark.parametrize("rule", [rule for rule in KEYS if KEYS[rule]], ids=lambda rule: type(rule).__name__)
def test_another_value_of_a_key_changes_something(rule):
    _, _, batch, _, spec, _ = setting("dense")
    model = NETS.get(rule, DENSE)
    params = cast(model.init(KEY, spec), jnp.float64)

    def end(rule):
        kept = cast(rule.init_state(KEY, params, model, spec), jnp.float64)
        gradient = rule.gradient(model, LOSS)

        def step(carry, key):
            w, kept = carry
            result = gradient(w, batch, credit.carrying(jaxbp.Context(key, model.init_state(spec)), kept))
            updates = jax.tree.map(lambda g: -0.1 * g, result.grads)
            updates, kept = rule.update(updates, w, result.state.credit)
            return (jax.tree.map(jnp.add, w, updates), kept), None

        (w, _), _ = jax.lax.scan(step, (params, kept), jax.random.split(KEY, 3))
        return w

    rules = [rule, *(replace(rule, **{key: value}) for key, value in KEYS[rule].items())]
    before, *others = jax.jit(lambda: [end(rule) for rule in rules])()
    for key, other in zip(KEYS[rule], others, strict=True):
        assert worst(other, before) > 1e-6, key
