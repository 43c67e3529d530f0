"""The check is itself checked: planted faults in every leaf of every layer, rewritten gradient functions, wrong steps.

CI runs a layer of every family; the first case of every layer is `nightly`, and `python -m proofs.prove_check` takes
all cases and prints the table.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import Cause, check_gradient, check_model
from jaxbp.check.diagnosis.bisect import steps
from jaxbp.core import Layer, PyTree, label
from proofs.planted import ALL
from proofs.prove_check import outcomes, problem_of, rewritten, subjects

FAST = ("Dense dense", "Tanh tanh")
FAMILIES = ("Conv conv-1d", "RMSNorm rmsnorm", "MaxPool maxpool", "Embedding embedding")
FUNCTIONS = ("mlp", "embedding")
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]


def cases():
    """The first case of every class."""
    first = {type(case.layer): (name, case) for name, case in reversed(list(subjects()))}
    names = [name for name, _ in first.values()]
    assert {*FAST, *FAMILIES} <= set(names), names
    marks = lambda name: [] if name in FAST else pytest.mark.slow if name in FAMILIES else NIGHTLY
    return [pytest.param(case, id=name, marks=marks(name)) for name, case in first.values()]


def functions():
    marks = lambda planted: pytest.mark.slow if planted.name in FUNCTIONS else NIGHTLY
    return [pytest.param(planted, id=planted.name, marks=marks(planted)) for planted in ALL]


def assert_told(outcomes):
    """Every fault is caught, its leaf named and no other blamed; nine in ten have their cause named."""
    real = [outcome for outcome in outcomes if not outcome.equivalent]
    assert [f"{outcome.path} {outcome.fault}" for outcome in real if not outcome.caught] == []
    assert sum(outcome.named for outcome in real) >= 0.9 * len(real)


@pytest.mark.parametrize("case", cases())
def test_every_fault_is_caught_and_its_cause_named(case, float64):
    assert_told(outcomes(str(case), problem_of(case)))


@pytest.mark.parametrize("planted", functions())
def test_every_rewritten_line_is_caught_and_its_cause_named(planted, float64):
    assert_told(rewritten(planted))


@dataclass(frozen=True)
class Spoiled(Layer):
    """`inner` whose backward is off by the parameters "dx" and "grads" times one per mille: zero for a right one."""

    inner: Layer

    @property
    def label(self):
        return label(self.inner)

    def init(self, key, spec):
        return {"inner": self.inner.init(key, spec), "dx": jnp.zeros(()), "grads": jnp.zeros(())}

    def forward(self, params, x, ctx):
        return self.inner.forward(params["inner"], x, ctx)

    def backward(self, params, cache, dy):
        dx, grads = self.inner.backward(params["inner"], cache, dy)
        off = lambda g, by: jax.tree.map(lambda g: g * (1 + 0.001 * by), g)
        none = jnp.zeros(())
        return off(dx, params["dx"]), {"inner": off(grads, params["grads"]), "dx": none, "grads": none}


@pytest.mark.parametrize("depth", [2, *(pytest.param(depth, marks=NIGHTLY) for depth in range(3, 11))])
def test_the_first_wrong_step_of_a_chain_is_found(depth, float64):
    """Every position, one wrong step or two: the later one in the chain is the first in backward order."""
    kinds = (jaxbp.Dense(4), jaxbp.Tanh(), jaxbp.Dense(3), jaxbp.Sigmoid(), jaxbp.Dense(5))
    model = jaxbp.Chain(tuple(Spoiled(kinds[i % len(kinds)]) for i in range(depth)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    params = jaxbp.cast(model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype)), jnp.float64)
    y = model.forward(params, x, jaxbp.Context())[0]
    dy = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    order = [name for _, name, _ in reversed(model.named())]

    def wrong(params: PyTree) -> list[str]:
        return [name for name, step in steps(model, params, x, jaxbp.Context(), dy) if step.wrong(1e-11)]

    assert wrong(params) == []
    for i, name in enumerate(order):
        for what in ("dx", "grads"):
            if what == "grads" and not params[name]["inner"]:
                continue
            spoiled = params | {name: params[name] | {what: jnp.ones(())}}
            assert wrong(spoiled) == [name]
            other = order[(i + 1) % depth]
            both = spoiled | {other: spoiled[other] | {"dx": jnp.ones(())}}
            assert wrong(both)[0] == min(name, other, key=order.index)


@pytest.mark.slow
def test_the_step_of_a_stack_and_its_cause_are_told():
    class Forgetful(jaxbp.Tanh):
        label = "tanh"

        def backward(self, params, y, dy):
            return dy, {}

    model = jaxbp.Chain((jaxbp.Dense(3), jaxbp.Stack(jaxbp.Chain((jaxbp.Dense(3), Forgetful())), 4), jaxbp.Dense(2)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype))
    batch = {"x": x, "y": x[:, :2], "weight": jnp.full(5, 0.2)}
    report = check_model(model, jaxbp.SquaredError(), params, batch)
    assert not report.passed
    assert report.step == "01_stack/01_tanh[3]: dx (activation derivative left out: dx is dy itself)"
    assert not report["00_dense/w"].passed
    assert report["02_dense/w"].passed


def test_a_wrong_delta_of_the_loss_is_the_first_step():
    class Doubled(jaxbp.SquaredError):
        def backward(self, cache):
            return 2 * super().backward(cache)

    model = jaxbp.Dense(2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype))
    report = check_model(model, Doubled(), params, {"x": x, "y": x[:, :2], "weight": jnp.full(5, 0.2)})
    assert report.step.startswith("the loss: its delta is off by 1.0e+00")


@pytest.mark.slow
def test_a_kernel_of_one_entry_that_is_flipped_is_equivalent(float64):
    case = jaxbp.Conv.cases()[0]
    layer = jaxbp.Conv(3, (1,) * len(case.layer.kernel))
    equivalent = {o.fault for o in outcomes("1x1", problem_of(jaxbp.Case(layer, case.spec))) if o.equivalent}
    assert equivalent >= {"kernel not flipped", "kernel not flipped in dx"}


@pytest.mark.slow
def test_a_mistake_in_a_loop_inside_a_loop_is_named():
    def loss_with(activation):
        def loss(w, x):
            step = lambda h, x_t: (activation(w * h + x_t), None)
            row = lambda h, x_n: jax.lax.scan(step, h, x_n)
            return jnp.sum(jax.lax.scan(row, jnp.zeros(3), x)[0] ** 2)

        return loss

    draw = np.random.default_rng(0)
    without_derivative = lambda z: z + jax.lax.stop_gradient(jnp.tanh(z) - z)
    w, x = draw.normal(size=3), draw.normal(size=(2, 4, 3))
    report = check_gradient(jax.grad(loss_with(without_derivative)), loss_with(jnp.tanh), w, x)
    assert report["params"].causes[0].cause is Cause.DERIVATIVE
    assert "'tanh' (test_corpus.py:" in report["params"].causes[0].text
