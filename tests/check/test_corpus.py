"""The check is itself checked: planted faults in every leaf of every layer, rewritten gradient functions, wrong steps.

`python -m proofs.prove_check` prints the whole table.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import check_model
from jaxbp.check.diagnosis.bisect import steps
from jaxbp.core import Layer, PyTree, label
from proofs.planted import ALL
from proofs.prove_check import outcomes, problem_of, rewritten, subjects

QUICK = ("Dense dense", "Tanh tanh")


def cases():
    """The first case of every class; the script takes them all."""
    first = {type(case.layer): (name, case) for name, case in reversed(list(subjects()))}
    slow = lambda name: () if name in QUICK else pytest.mark.slow
    return [pytest.param(case, id=name, marks=slow(name)) for name, case in first.values()]


@pytest.mark.parametrize("case", cases())
def test_every_fault_is_caught_and_its_cause_named(case, float64):
    found = [one for one in outcomes(str(case), problem_of(case)) if not one.equivalent]
    assert [f"{one.path} {one.fault}" for one in found if not one.caught] == []
    assert sum(one.named for one in found) >= 0.9 * len(found)


@pytest.mark.slow
@pytest.mark.parametrize("planted", ALL, ids=lambda planted: planted.name)
def test_every_rewritten_line_is_caught_and_its_cause_named(planted, float64):
    found = [one for one in rewritten(planted) if not one.equivalent]
    assert [f"{one.path} {one.fault}" for one in found if not one.caught] == []
    assert sum(one.named for one in found) >= 0.9 * len(found)


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


@pytest.mark.parametrize("depth", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in range(3, 11))])
def test_the_first_wrong_step_of_a_chain_is_found(depth, float64):
    """Every position, one wrong step or two: the later one in the chain is the first in backward order."""
    kinds = (jaxbp.Dense(4), jaxbp.Tanh(), jaxbp.Dense(3), jaxbp.Sigmoid(), jaxbp.Dense(5))
    model = jaxbp.Chain(tuple(Spoiled(kinds[i % len(kinds)]) for i in range(depth)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    params = jaxbp.cast(model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype)), jnp.float64)
    y = model.forward(params, x, jaxbp.Context())[0]
    dy = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    order = [name for _, name, _ in reversed(model.named())]

    def wrong(spoiled: PyTree) -> list[str]:
        return [name for name, step in steps(model, spoiled, x, jaxbp.Context(), dy) if step.wrong(1e-11)]

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
    found = outcomes("1x1", problem_of(jaxbp.Case(layer, case.spec)))
    assert {one.fault for one in found if one.equivalent} >= {"kernel not flipped", "kernel not flipped in dx"}
