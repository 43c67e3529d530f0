"""Predictive coding: layers settle between what is predicted of them and what they are to predict.

A chain is cut into stages before every layer with parameters but norms. v_l is what goes into stage l + 1, f_l a stage:

    d_l = f_l(v_l-1) - v_l                           the error of a prediction;  d_L = nudge dL/dy at the output
    v_l += rate (d_l - J_l+1^T d_l+1)                falls down sum_l |d_l|^2 / 2 + nudge L
    dw_l = (df_l/dw_l)^T d_l / nudge                 once it has settled

At rest d_l = J_l+1^T d_l+1, the equation of backpropagation, taken at the values that have settled (Rao & Ballard 1999;
Whittington & Bogacz 2017, Neural Computation 29). With predictions and derivatives held at the forward pass it is
backpropagation (Millidge et al. 2020, arXiv 2006.04182), after as many steps as there are stages where rate is 1. Each
layer sees its own error and that of the layer above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp

from jaxbp.backprop import Result
from jaxbp.compose import Chain
from jaxbp.core import Batch, Context, Layer, PyTree, entry
from jaxbp.credit.config import Carried, Credit, example_weights, parted
from jaxbp.credit.links import UNLINKED, Kinds
from jaxbp.credit.relax import Relaxer
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.typed import Positive

Stage = list[tuple[int, str, Layer]]


def stages_of(rule: str, model: Layer, params: PyTree, joined: Kinds = ()) -> list[Stage]:
    """The layers of a chain, cut before every one with parameters but the first, and but those of the kinds `joined`.

    Raises InputError for what is no Chain.
    """
    if not isinstance(model, Chain):
        raise InputError(f"{rule} is defined for a Chain, got {type(model).__name__}")
    stages: list[Stage] = [[]]
    for i, name, layer in model.named():
        begins = params[name] and not isinstance(layer, joined)
        if begins and any(params[own] for _, own, _ in stages[-1]):
            stages.append([])
        stages[-1].append((i, name, layer))
    return stages


def stage_forward(stage: Stage, params: PyTree, x: PyTree, ctx: Context) -> tuple[PyTree, PyTree]:
    """-> (y, {name: cache})."""
    cache = {}
    for i, name, layer in stage:
        x, cache[name] = layer.forward(params[name], x, ctx.child(i, name))
    return x, cache


def stage_backward(stage: Stage, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    """-> (dx, {name: grads})."""
    grads = {}
    for _, name, layer in reversed(stage):
        dy, grads[name] = layer.backward(params[name], cache[name], dy)
    return dy, grads


def next_states(stages: list[Stage], caches: list[PyTree], state: PyTree) -> PyTree:
    """The chain's state after a pass; None where it has none."""
    if state is None:
        return None
    passed = [(name, layer, cache) for stage, cache in zip(stages, caches, strict=True) for _, name, layer in stage]
    return {name: layer.next_state(state[name], cache[name]) for name, layer, cache in passed}


@dataclass(frozen=True)
class PredictiveCoding(Credit):
    """Layers settle between prediction and error, and each weight learns from its own layer's error.

    "fixed" is exact up to the relaxer's tolerance: its deltas are those of backpropagation. "free" is exact in the
    limit of a small nudge.

    Args:
        predictions: fixed: those of the forward pass; free: made anew from what has settled
        nudge: how strongly the output is pulled by the loss of each item
        relaxer: of the values between the stages
    """

    predictions: Literal["fixed", "free"] = "free"
    nudge: Positive = 1.0
    relaxer: Relaxer = Relaxer(rate=0.2, tolerance=1e-5)

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)
            target = entry(batch, "y")
            stages = stages_of(type(self).__name__, model, params, UNLINKED)  # else values hardly settle
            values, caches = [x], []
            for stage in stages:
                y, cache = stage_forward(stage, params, values[-1], ctx)
                values.append(y)
                caches.append(cache)
            y = values.pop()
            weight = example_weights(type(self).__name__, batch, y)
            value, _ = loss.forward(y, target, weight)
            counts = (weight != 0).astype(weight.dtype)
            top = lambda y: self.nudge * loss.backward(loss.forward(y, target, counts)[1])
            settle = self._fixed if self.predictions == "fixed" else self._free
            caches, errors = settle(stages, params, values, caches, top(y), top, ctx)
            scale = weight / self.nudge
            grads: dict[str, Any] = {}
            for stage, cache, error in zip(stages, caches, errors, strict=True):
                own_error = error * scale.reshape(-1, *(1,) * (error.ndim - 1))
                grads |= stage_backward(stage, params, cache, own_error)[1]
            state = next_states(stages, caches, ctx.state)
            return Result(value, {name: grads[name] for name in params}, Carried(state, kept), y)

        return run

    def _fixed(self, stages: list[Stage], params: PyTree, values: list, caches: list, dy: PyTree, *_: Any) -> tuple:
        """The errors d_l settle to J^T d_l+1, with the caches of the forward pass."""

        def step(errors: tuple) -> tuple:
            above = (*errors, dy)
            pairs = zip(stages[1:], caches[1:], above[1:], strict=True)
            return tuple(stage_backward(stage, params, cache, error)[0] for stage, cache, error in pairs)

        start = tuple(map(jnp.zeros_like, values[1:]))
        return caches, (*self.relaxer.settle(step, start).or_nan(), dy)

    def _free(
        self, stages: list[Stage], params: PyTree, values: list, caches: list, dy: PyTree, top: Callable, ctx: Context
    ) -> tuple:
        """The values v_l settle; predictions and derivatives go with them."""
        x, *between = values
        first = stage_forward(stages[0], params, x, ctx)  # what the data predict is the same in every step

        def errors_of(between: tuple) -> tuple[list, list]:
            others = [stage_forward(stage, params, v, ctx) for stage, v in zip(stages[1:], between, strict=True)]
            passes = [first, *others]
            errors = [y - v for (y, _), v in zip(passes, between, strict=False)]
            return [cache for _, cache in passes], [*errors, top(passes[-1][0])]

        def step(between: tuple) -> tuple:
            caches, errors = errors_of(between)
            backs = [
                stage_backward(stage, params, cache, error)[0]
                for stage, cache, error in zip(stages[1:], caches[1:], errors[1:], strict=True)
            ]
            return tuple(v + d - back for v, d, back in zip(between, errors, backs, strict=False))

        return errors_of(self.relaxer.settle(step, tuple(between)).or_nan())
