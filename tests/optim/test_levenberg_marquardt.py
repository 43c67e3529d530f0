"""Levenberg-Marquardt against its equation, and beside SciPy's from the same starts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp.check import worst
from jaxbp.losses import Penalty, SquaredError
from jaxbp.models import MLP
from jaxbp.optim import Objective, levenberg_marquardt
from jaxbp.optim.levenberg_marquardt import linearized
from tests.support.optim import CTX, problem, updates


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("scale", "penalties"),
    [
        ("mean", (Penalty(l2=0.3),)),
        *(pytest.param(scale, (), marks=pytest.mark.slow) for scale in ("half_sum", "sum", "mean")),
    ],
)
def test_a_levenberg_marquardt_step_solves_its_equation(scale, penalties):
    objective, params, batch = problem(SquaredError(scale), penalties)
    j, r = linearized(objective, params, batch, CTX)
    theta, whole = ravel_pytree(params)
    assert (
        worst(j, jax.jit(jax.jacobian(lambda theta: linearized(objective, whole(theta), batch, CTX)[1]))(theta))
        <= 1e-12
    )
    result = objective.gradient()(params, batch, CTX)
    assert abs(jnp.vdot(r, r) / 2 - result.value) <= 1e-14
    assert worst(j.T @ r, ravel_pytree(result.grads)[0]) <= 1e-12
    after, state, _ = updates(levenberg_marquardt(objective, damping=0.3), objective, params, batch)
    step = ravel_pytree(jax.tree.map(jnp.subtract, after, params))[0]
    assert abs(state.damping - 0.1) <= 1e-12  # the first try was a success
    assert worst(step, -jnp.linalg.solve(j.T @ j + 0.3 * jnp.eye(len(step)), j.T @ r)) <= 1e-10


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_the_loss_never_rises_and_a_failure_raises_the_damping():
    objective, params, batch = problem()
    _, _, values = updates(levenberg_marquardt(objective, damping=1e-12), objective, params, batch, steps=40)
    assert np.all(np.diff(values) <= 0)
    _, state, values = updates(levenberg_marquardt(objective, 1e-12, tries=1), objective, params, batch)
    assert values[1] <= values[0]
    minimum, _, _ = updates(levenberg_marquardt(objective), objective, params, batch, steps=300)
    _, state, values = updates(levenberg_marquardt(objective, damping=1.0, tries=4), objective, minimum, batch)
    assert state.damping == 81.0  # no step lowers the loss: none is taken
    assert values[0] == values[1]


def starts(model, spec, seeds=50):
    return [jaxbp.cast(model.init(jax.random.key(seed), spec), jnp.float64) for seed in range(seeds)]


def lm_problem(name):
    """(objective, batch) in float64: XOR by 2-3-1, the sine by 1-8-1, or the sine with noise by 1-5-1."""
    if name == "xor":
        x, y = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), jnp.array([[0.0], [1], [1], [0]])
        model = MLP(1, (3,), "tanh", "sigmoid", w_init="glorot_normal", b_init="normal").build()
    else:
        x = jnp.linspace(-3, 3, 40)[:, None]
        y = jnp.sin(x) + (0.1 * jax.random.normal(jax.random.key(5), x.shape) if name == "noisy" else 0)
        model = MLP(1, (5 if name == "noisy" else 8,), "tanh", w_init="glorot_normal", b_init="normal").build()
    batch = {"x": x, "y": y, "weight": jnp.full(len(x), 1 / len(x))}
    return Objective(model, SquaredError("mean"), (), jax.ShapeDtypeStruct(x.shape, jnp.float64)), batch


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "steps", "limit"),
    [
        ("xor", 100, 30),
        pytest.param("sine", 50, 50, marks=pytest.mark.nightly),
        pytest.param("noisy", 1500, None, marks=pytest.mark.nightly),
    ],
)
def test_levenberg_marquardt_beside_scipys_from_fifty_starts(name, steps, limit):
    """At least as many successes (an error below 1e-6), a median error of at most 1.01 times SciPy's, and soon."""
    from scipy.optimize import least_squares

    objective, batch = lm_problem(name)
    optimizer, gradient = levenberg_marquardt(objective), objective.gradient()
    n = len(batch["x"])

    @jax.jit
    def ours(params):
        def step(carry, _):
            params, state = carry
            result = gradient(params, batch, CTX)
            change, state = optimizer.update(result.grads, state, params, value=result.value, batch=batch, ctx=CTX)
            return (optax.apply_updates(params, change), state), result.value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)
        return jnp.append(values, objective.value(params, batch, CTX))

    flat, unravel = ravel_pytree(starts(objective.model, objective.spec, 1)[0])
    padding = np.zeros(max(flat.size - n, 0))  # MINPACK wants as many residuals as parameters
    residuals = jax.jit(lambda flat: (objective.model.forward(unravel(flat), batch["x"], CTX)[0] - batch["y"]).ravel())
    jacobian = jax.jit(jax.jacobian(residuals))
    errors, theirs, hits = [], [], []
    for params in starts(objective.model, objective.spec):
        values = np.asarray(ours(params))
        errors.append(values[-1])
        hits.append(np.argmax(values < 1e-6) if (values < 1e-6).any() else np.inf)
        solution = least_squares(
            lambda flat: np.append(residuals(flat), padding),
            ravel_pytree(params)[0],
            method="lm",
            max_nfev=500 if name == "sine" else None,
            jac=lambda flat: np.concatenate([jacobian(flat), np.zeros((len(padding), flat.size))]),
        )
        theirs.append(2 * solution.cost / n)
    errors, theirs = np.array(errors), np.array(theirs)
    print(
        f"{name}: below 1e-6 {np.sum(errors < 1e-6)} and {np.sum(theirs < 1e-6)} of 50; median error "
        f"{np.median(errors):.4g} and {np.median(theirs):.4g}; steps to 1e-6 {np.median(hits)}, most {max(hits)}"
    )
    assert np.sum(errors < 1e-6) >= np.sum(theirs < 1e-6)
    if name != "sine":  # there both go on towards zero for thousands of steps
        assert np.median(errors) <= 1.01 * np.median(theirs) + 1e-30
    if limit:
        assert np.median(hits) <= limit
        assert np.sum(np.array(hits) <= limit) >= np.sum(theirs < 1e-6)
