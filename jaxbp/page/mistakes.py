"""Mistakes that people make in a backward pass, planted on purpose: what the check says of each, and what it costs.

A mistake is a rule of the sweep: at one leaf layer it takes something else than the layer's own backward. Or it changes
the loss's dy, where the sweep begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbp.backprop import item_weights, value_and_grad
from jaxbp.check import check_gradient
from jaxbp.core import Batch, Layer, PyTree, add, path_name
from jaxbp.layers import Dense
from jaxbp.layers.activations import Activation
from jaxbp.page.setting import Setting
from jaxbp.rules import Rule
from jaxbp.wrappers import Keep, kept_in_order

STEPS = 10  # of training, with the mistake and without
Take = Callable[[Any, PyTree, Any, PyTree], tuple[PyTree, PyTree]]


@dataclass(frozen=True)
class Mistake:
    """One planted mistake: `take` at leaf layer number `layer`, in forward order; or `factor` on the loss's dy."""

    name: str
    title: str
    text: str  # what is done wrong, and where
    layer: int | None = None
    take: Take | None = None
    factor: float = 1.0


def mistakes(start: Setting) -> Iterator[Mistake]:
    """Those that can be made in this model on this batch."""
    leaves = _leaves(start)
    dense = [(index, name, shapes) for index, name, layer, shapes in leaves if isinstance(layer, Dense)]
    rows = len(start.batch["x"])
    for index, name, layer, _ in leaves:
        if isinstance(layer, Activation) and any(lower < index for lower, _, _ in dense):
            text = f"the delta passes {name} as if its slope were 1"
            yield Mistake("slope", "Slope left out", text, index, lambda layer, params, cache, dy: (dy, {}))
            break
    if rows > 1:
        yield Mistake("mean", "1/N forgotten", f"the first delta lacks the examples' weights 1/{rows}", factor=rows)
    for index, name, shapes in dense[1:]:
        rows_and_columns = shapes["w"].shape
        if rows_and_columns[0] == rows_and_columns[1] > 1:
            text = f"the delta goes back through {name}/w itself, not through its transpose"
            yield Mistake("transpose", "Transpose forgotten", text, index, _untransposed)
            break
    for index, name, shapes in dense:
        if rows > 1 and "b" in shapes:
            text = f"the gradient of {name}/b is a mean over the examples, whose weights have averaged already"
            yield Mistake("bias", "Mean for sum", text, index, _mean_bias)
            break
    yield Mistake("sign", "Sign of the error", "the first delta is target - output: every step climbs", factor=-1.0)
    for index, name, _ in dense[1:]:
        text = f"the delta goes back through {name}/w after that layer's step (sequential updates), not before"
        yield Mistake("stepped", "Weights changed too early", text, index, _stepped(start.rate))
        break


def _untransposed(layer: Keep, params: PyTree, cache: Any, dy: jax.Array) -> tuple[PyTree, PyTree]:
    return jnp.einsum("...i,oi->...o", dy, params["w"]), layer.backward(params, cache, dy)[1]


def _mean_bias(layer: Keep, params: PyTree, cache: Any, dy: jax.Array) -> tuple[PyTree, PyTree]:
    dx, grads = layer.backward(params, cache, dy)
    return dx, grads | {"b": grads["b"] / len(dy)}


def _stepped(rate: float) -> Take:
    def take(layer: Any, params: PyTree, cache: Any, dy: jax.Array) -> tuple[PyTree, PyTree]:
        grads = layer.backward(params, cache, dy)[1]
        later = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        return layer.backward(later, cache, dy)[0], grads

    return take


def gradient_with(start: Setting, mistake: Mistake | None) -> Callable[[PyTree, Batch], PyTree]:
    """(params, batch) -> the gradient with this mistake in it."""

    def take(layer: Any, params: PyTree, cache: Any, dy: PyTree) -> tuple[PyTree, PyTree]:
        if mistake and mistake.take and mistake.layer == layer.index:
            return mistake.take(layer, params, cache, dy)
        return layer.backward(params, cache, dy)

    def gradient(params: PyTree, batch: Batch) -> PyTree:
        return _swept(start, Rule(take, merge=add), params, batch, mistake.factor if mistake else 1.0)

    return gradient


def _swept(start: Setting, rule: Rule, params: PyTree, batch: Batch, factor: float = 1.0) -> PyTree:
    """What the rule takes at the leaf layers, each in a Keep that has its number."""
    model, loss = kept_in_order(start.model), start.config.loss
    x, ctx = start.ctx.counted(batch)
    y, cache = model.forward(params, x, ctx)
    dy = loss.backward(loss.forward(y, batch["y"], item_weights(batch, y))[1])
    return model.sweep(rule, params, cache, factor * dy)[1]


def _leaves(start: Setting) -> list[tuple[int, str, Layer, PyTree]]:
    """(number, path, leaf layer, the shapes of its parameters) in forward order."""
    layers = {}

    def take(layer: Any, params: PyTree, cache: Any, dy: PyTree) -> tuple[PyTree, PyTree]:
        layers[layer.index] = (layer.inner, jax.tree.map(jax.typeof, params))
        return layer.backward(params, cache, dy)[0], jnp.zeros(layer.index)  # the length tells the number

    sweep = lambda params, batch: _swept(start, Rule(take), params, batch)
    lengths = jax.tree_util.tree_leaves_with_path(jax.eval_shape(sweep, start.params, start.batch))
    names = {length.shape[-1]: path_name(path) for path, length in lengths}
    return [(index, names[index], *layers[index]) for index in sorted(names)]


def planted(start: Setting) -> list[dict[str, Any]]:
    """Every mistake with the report of the check on its gradient, and the losses of STEPS steps with it."""
    loss = lambda params, batch: value_and_grad(start.model, start.config.loss)(params, batch, start.ctx).value
    outcomes = []
    for mistake in mistakes(start):
        gradient = gradient_with(start, mistake)
        report = check_gradient(gradient, loss, start.params, start.batch)
        outcomes.append(
            {
                "name": mistake.name,
                "title": mistake.title,
                "text": mistake.text,
                "layer": mistake.layer,
                "factor": mistake.factor,
                "passed": report.passed,
                "report": str(report),
                "causes": [str(cause) for leaf in report.leaves for cause in leaf.causes[:1]],
                "losses": losses(start, gradient),
            }
        )
    return outcomes


def losses(start: Setting, gradient: Callable[[PyTree, Batch], PyTree]) -> list[float]:
    """Loss and penalty before each of STEPS steps of the config's optimizer along this gradient, and after the last."""
    optimizer = start.optimizer()

    def step(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], jax.Array]:
        params, memory = carry
        value = value_and_grad(start.model, start.config.loss)(params, start.batch, start.ctx).value
        value = value + sum(penalty.value(params) for penalty in start.penalties)
        total = reduce(add, [penalty.gradient(params) for penalty in start.penalties], gradient(params, start.batch))
        updates, memory = optimizer.update(total, memory, params, value=value, batch=start.batch, ctx=start.ctx)
        return (optax.apply_updates(params, updates), memory), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, STEPS + 1)[1])
    return np.asarray(run((start.params, optimizer.init(start.params)))).tolist()
