"""Steady states: the relaxer, the adjoint relaxation, and rules that learn from two states, against their theorems."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import credit
from jaxbp.check import worst
from jaxbp.core import cast
from jaxbp.credit.relax import NotSettled, Relaxer
from jaxbp.credit.steady import FeedbackNet, SteadyState
from jaxbp.errors import InputError
from tests.support.marks import but_at_night

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
KEY = jax.random.key(0)
TIGHT = Relaxer(rate=0.5, tolerance=1e-14, steps=2000)
SQUARED = jaxbp.SquaredError()
BODY = jaxbp.Graph(
    (
        jaxbp.Node("own", jaxbp.Dense(4, bias=False), ("state",)),
        jaxbp.Node("input", jaxbp.Dense(4), ("x",)),
        jaxbp.Node("pairs", jaxbp.SigmaPi(4), ("state",)),
        jaxbp.Node("sum", jaxbp.Add(), ("own", "input", "pairs")),
        jaxbp.Node("bend", jaxbp.Tanh(), ("sum",)),
    ),
    ("state", "x"),
)
MODELS = {"sigma_pi": SteadyState(BODY, 4, TIGHT), "feedback": FeedbackNet((5, 4, 3), relaxer=TIGHT)}


def setting(model, scale=0.5):
    """(params, batch): weights small enough for a steady state."""
    spec = jax.ShapeDtypeStruct((7, 2), jnp.float64)
    params = cast(model.init(KEY, spec), jnp.float64)
    params = jax.tree.map(lambda p: scale * p + 0.1 * np.random.default_rng(p.size).normal(size=p.shape), params)
    outputs = jaxbp.output_spec(model, spec).shape[-1]
    x, y = (jax.random.normal(k, (7, width), jnp.float64) for k, width in ((KEY, 2), (jax.random.key(1), outputs)))
    return params, jaxbp.batch(x, y)


@pytest.mark.parametrize("method", ["damped", "ode", "anderson"])
def test_the_relaxer_finds_where_cosine_meets_itself(method):
    settled = Relaxer(method, rate=0.7, tolerance=1e-12).settle(lambda s: {"s": jnp.cos(s["s"])}, {"s": jnp.zeros(3)})
    np.testing.assert_allclose(settled.required()["s"], 0.7390851332151607, rtol=1e-11)
    assert settled.residual <= 1e-12
    assert settled.steps < 60
    single = Relaxer(method).settle(jnp.cos, jnp.zeros((), jnp.float32))
    np.testing.assert_allclose(single.required(), 0.7390851, rtol=2e-6)


@pytest.mark.parametrize("method", ["damped", "ode", "anderson"])
def test_a_relaxation_that_does_not_settle_is_refused(method):
    settled = Relaxer(method, steps=50).settle(lambda s: 3 * s * s + 2, jnp.ones(2))
    with pytest.raises(NotSettled, match=r"no steady state after .* steps: the state still moves by"):
        settled.required()
    assert jnp.all(jnp.isnan(settled.or_nan()))


def test_anderson_needs_fewer_steps():
    a = jnp.asarray(np.diag([0.95, 0.5, -0.3, 0.9]))
    count = lambda method: Relaxer(method, tolerance=1e-10).settle(lambda s: a @ s + 1, jnp.zeros(4)).steps
    assert count("anderson") < count("damped") / 5


@pytest.mark.parametrize("name", but_at_night(MODELS, "sigma_pi"))
def test_the_adjoint_relaxation_is_the_unrolled_gradient_and_the_implicit_one(name):
    """Almeida and Pineda against autodiff of 400 steps, and against (1 - J)^-T by a dense solve."""
    model = MODELS[name]
    params, batch = setting(model)
    steps_of = lambda params, x, s: model.step(params, s, x, jaxbp.Context())[0]

    def unrolled(params, x):
        damped = lambda s, _: (jax.tree.map(lambda s, f: (s + f) / 2, s, steps_of(params, x, s)), None)
        s, _ = jax.lax.scan(damped, model.start(x), None, 400)
        return jnp.sum((s[-1] - batch["y"]) ** 2) / 14

    ctx = jaxbp.Context(None, model.init_state(jax.eval_shape(lambda: batch["x"])))
    result = jax.jit(jaxbp.value_and_grad(model, SQUARED))(params, batch, ctx)
    value, truth = jax.jit(jax.value_and_grad(unrolled, (0, 1)))(params, batch["x"])
    y, cache = model.forward(params, batch["x"])
    dx, _ = model.backward(params, cache, (y - batch["y"]) / 7)
    assert worst((result.value, result.grads, dx), (value, *truth)) <= 1e-8

    def implicit(params, x):
        """The gradient for one example by the implicit function theorem."""
        settled = jax.lax.stop_gradient(model.settle(params, x[None]).required())
        flat, tree_of = jax.flatten_util.ravel_pytree(settled)
        f = lambda params, s: jax.flatten_util.ravel_pytree(steps_of(params, x[None], tree_of(s)))[0]
        jacobian = jax.jacobian(f, 1)(params, flat)
        error = jax.grad(lambda s: jnp.sum((tree_of(s)[-1] - batch["y"][:1]) ** 2) / 14)(flat)
        adjoint = jnp.linalg.solve((jnp.eye(len(flat)) - jacobian).T, error)
        return jax.vjp(lambda params: f(params, flat), params)[1](adjoint)[0]

    one = {"x": batch["x"][:1], "y": batch["y"][:1], "weight": batch["weight"][:1]}
    assert worst(jaxbp.value_and_grad(model, SQUARED)(params, one).grads, implicit(params, batch["x"][0])) <= 1e-8


def test_what_does_not_settle_changes_no_weight():
    model = SteadyState(jaxbp.Graph((jaxbp.Node("f", jaxbp.Add(), ("s", "s", "x")),), ("s", "x")), 2)
    batch = jaxbp.batch(jnp.ones((3, 2)), jnp.ones((3, 2)))
    assert jnp.isnan(jaxbp.value_and_grad(model, SQUARED)({"f": {}}, batch).value)


@functools.cache
def errors(rule_of, nudges, feedback=1.0):
    """The distance of a rule's direction from the gradient of the steady state, for each nudge."""
    model = FeedbackNet((5, 4, 3), feedback, relaxer=TIGHT)
    params, batch = setting(model)
    truth = jax.jit(jaxbp.value_and_grad(model, SQUARED))(params, batch).grads
    run = lambda rule: jax.jit(rule.gradient(model, SQUARED))(params, batch, credit.carrying(jaxbp.Context(), {})).grads
    return [worst(run(rule_of(nudge)), truth) for nudge in nudges]


@pytest.mark.parametrize(
    ("sides", "slope", "feedback"),
    [("one", 1, 1.0), pytest.param("both", 2, 1.0, marks=pytest.mark.nightly), ("both", 2, 0.5)],
)
def test_equilibrium_propagations_error_falls_with_the_nudge(sides, slope, feedback):
    large, small = errors(lambda nudge: credit.EquilibriumPropagation(nudge, sides), (0.04, 0.01), feedback)
    assert abs(np.log(large / small) / np.log(4) - slope) < 0.1
    assert small < 0.02


def test_contrastive_hebbian_learning_is_backpropagation_for_weak_feedback():
    """Its error against the perceptron of the same weights falls with slope 1 in the feedback."""
    chain = FeedbackNet((5, 4, 3), 0.0, relaxer=TIGHT)
    params, batch = setting(chain)
    layers = (jaxbp.Dense(5), jaxbp.Sigmoid(), jaxbp.Dense(4), jaxbp.Sigmoid(), jaxbp.Dense(3))
    perceptron = jaxbp.Chain(layers)
    own = {name: params.get(f"{i // 2:02d}", {}) if i % 2 == 0 else {} for i, name, _ in perceptron.named()}
    truth = jaxbp.value_and_grad(perceptron, SQUARED)(own, batch).grads
    truth = {f"{i // 2:02d}": truth[name] for i, name, _ in perceptron.named() if i % 2 == 0}
    assert worst(jaxbp.value_and_grad(chain, SQUARED)(params, batch).grads, truth) <= 1e-10
    distance = []
    for feedback in (0.04, 0.01):
        rule = credit.ContrastiveHebbian().gradient(replace(chain, feedback=feedback), SQUARED)
        grads = jax.jit(rule)(params, batch, credit.carrying(jaxbp.Context(), {})).grads
        distance.append(worst(grads, truth))
    assert abs(np.log(distance[0] / distance[1]) / np.log(4) - 1) < 0.1
    with pytest.raises(InputError, match="ContrastiveHebbian needs loss=SquaredError, whose delta is y - t"):
        credit.ContrastiveHebbian().gradient(chain, jaxbp.SoftmaxCrossEntropy())


PREDICTED = {
    "dense": (jaxbp.Chain(jaxbp.Dense(5), jaxbp.Tanh(), jaxbp.Dense(4), jaxbp.Sigmoid(), jaxbp.Dense(3)), (7, 2)),
    "conv": (  # the norm is part of the first stage
        jaxbp.Chain(jaxbp.Conv(2, (2, 2)), jaxbp.BatchNorm(), jaxbp.Tanh(), jaxbp.Flatten(), jaxbp.Dense(3)),
        (7, 3, 3, 1),
    ),
}


@pytest.mark.parametrize("name", ["dense", pytest.param("conv", marks=pytest.mark.nightly)])
def test_predictive_coding_with_fixed_predictions_is_backpropagation(name):
    model, shape = PREDICTED[name]
    params = cast(model.init(KEY, jax.ShapeDtypeStruct(shape, jnp.float64)), jnp.float64)
    batch = jaxbp.batch(jax.random.normal(KEY, shape, jnp.float64), jnp.arange(7) % 3)
    loss = jaxbp.SoftmaxCrossEntropy()
    truth = jax.jit(jaxbp.value_and_grad(model, loss))(params, batch).grads
    run = lambda rule: jax.jit(rule.gradient(model, loss))(params, batch, credit.carrying(jaxbp.Context(), {})).grads
    stages = 3 if name == "dense" else 2
    at_once = Relaxer(rate=1.0, tolerance=1e-300, steps=stages + 1)  # as many steps as stages: then it stands still
    assert worst(run(credit.PredictiveCoding("fixed", relaxer=at_once)), truth) <= 1e-10
    slowly = Relaxer(rate=0.3, tolerance=1e-13)
    assert worst(run(credit.PredictiveCoding("fixed", relaxer=slowly)), truth) <= 1e-10
    free = [worst(run(credit.PredictiveCoding("free", nudge, slowly)), truth) for nudge in (0.02, 0.005)]
    assert abs(np.log(free[0] / free[1]) / np.log(4) - 1) < 0.1
    assert free[1] < 0.02
    with pytest.raises(InputError, match="PredictiveCoding is defined for a Chain, got Dense"):
        credit.PredictiveCoding().gradient(jaxbp.Dense(2), loss)(
            {}, jaxbp.batch(jnp.ones((3, 2)), jnp.ones((3, 2))), jaxbp.Context()
        )


def test_target_propagation_is_backpropagation_in_a_linear_net_of_orthogonal_weights():
    layers = (jaxbp.Dense(4, w_init="orthogonal"), jaxbp.Dense(4, w_init="orthogonal"), jaxbp.Dense(3))
    model, shape = jaxbp.Chain(layers), (7, 4)
    params = cast(model.init(KEY, jax.ShapeDtypeStruct(shape, jnp.float64)), jnp.float64)
    batch = jaxbp.batch(jax.random.normal(KEY, shape, jnp.float64), jnp.arange(7) % 3)
    loss = jaxbp.SoftmaxCrossEntropy()
    truth = jax.jit(jaxbp.value_and_grad(model, loss))(params, batch).grads
    rule = credit.DifferenceTargetPropagation("identity", noise=1.0)
    spec = jax.ShapeDtypeStruct(shape, jnp.float64)
    kept = cast(rule.init_state(KEY, params, model, spec), jnp.float64)
    gradient = jax.jit(rule.gradient(model, loss))
    step = lambda kept, key: gradient(params, batch, credit.carrying(jaxbp.Context(key), kept))
    exact = {"01": {"w": jnp.linalg.inv(params["01_dense"]["w"]), "b": jnp.zeros(4)}}
    assert worst(step(exact, KEY).grads, truth) <= 1e-6  # the orthogonal weights were drawn in float32
    assert worst(step(kept, KEY).grads, truth) > 0.1
    learn = lambda kept, key: (step(kept, key).state.credit, None)
    after, _ = jax.lax.scan(learn, kept, jax.random.split(KEY, 2000))
    assert worst(after["01"]["w"], exact["01"]["w"]) < 0.02  # the inverse is learned from noise
