"""The record of an experiment's pass with all that its step has: the penalty, and what a credit rule sends back.

The penalty's rows, `penalty/00_dense/w`, have its part of the gradient. A credit rule that is one reverse sweep
(`credit.config.Swept`) sends other deltas: each row of the pass also has what was sent there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np

from jaxbp.analysis.record import Record, Row, recorder
from jaxbp.backprop import item_weights, penalized
from jaxbp.core import Layer, PyTree, path_name
from jaxbp.credit.config import Swept, carrying
from jaxbp.page.setting import Setting
from jaxbp.rules import Rule
from jaxbp.training.step import updated

PENALTY = "penalty/"  # begins the names of a penalty's rows


def traced(start: Setting) -> Record:
    """The pass with the initial weights."""
    return tracer(start)(start.params, start.kept)


def tracer(start: Setting) -> Callable[[PyTree, PyTree], Record]:
    """(parameters, what the credit rule keeps) -> the pass with them, compiled once."""
    run = recorder(start.model, start.config.loss, start.params, start.batch)
    penalty = jax.jit(lambda params: sum(penalty.value(params) for penalty in start.penalties))
    by_hand = jax.jit(lambda params: [penalty.gradient(params) for penalty in start.penalties])
    autodiff = jax.jit(jax.grad(penalty))
    sent = jax.jit(lambda params, kept: sent_back(start, params, kept))

    def record(params: PyTree, kept: PyTree) -> Record:
        table = run(params, start.batch, start.ctx)
        if isinstance(start.config.credit, Swept):
            arrays = sent(params, kept)
            of_row = lambda row: None if row.kind == "input" else _array(arrays.get(row.name))
            table = replace(table, rows=tuple(replace(row, sent=of_row(row)) for row in table.rows))
        if not start.penalties:
            return table
        slopes = zip(*map(named, (params, *by_hand(params), autodiff(params))), strict=True)
        rows = [
            Row(PENALTY + name, "penalty", "l2 w + l1 sign w", np.asarray(w), np.asarray(hand), np.asarray(auto))
            for (name, w), (_, hand), (_, auto) in slopes
            if np.any(hand)
        ]
        return replace(table, rows=(*table.rows, *rows), penalty=float(penalty(params)))

    return record


def sent_back(start: Setting, params: PyTree, kept: PyTree) -> dict[str, jax.Array]:
    """{name of a row: what the credit rule has there}: of an output its delta, of a parameter its direction."""
    rule, loss, model = start.config.credit, start.config.loss, start.model
    assert isinstance(rule, Swept)

    def sweep(rule: Callable, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        take = lambda layer, params, cache, dy: (rule(layer, params, cache, dy)[0], getattr(dy, "delta", dy))
        return model.sweep(Rule(take), params, cache, dy)

    x, ctx = start.ctx.counted(start.batch)
    y, cache = model.forward(params, x, ctx)
    _, loss_cache = loss.forward(y, start.batch["y"], item_weights(start.batch, y))
    recording = cast(Layer, SimpleNamespace(sweep=sweep))
    deltas = rule.backward(recording, params, cache, loss.backward(loss_cache), kept, ctx)[0]
    direction = rule.gradient(model, loss)(params, start.batch, carrying(start.ctx, kept)).grads
    return dict([*named(deltas), *named(direction)])


def stepper(start: Setting) -> Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree, PyTree]]:
    """(parameters, the optimizer's memory, what the credit rule keeps) -> the same after the step of the run."""
    optimizer, credit = start.optimizer(), start.config.credit
    gradient = penalized(start.config.gradient(start.model), start.penalties)

    @jax.jit
    def step(params: PyTree, memory: PyTree, kept: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        result = gradient(params, start.batch, carrying(start.ctx, kept))
        return updated(result, optimizer, credit, params, memory, start.batch, start.ctx)

    return step


def named(tree: PyTree) -> list[tuple[str, Any]]:
    """(path, leaf) of every leaf."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _array(array: jax.Array | None) -> np.ndarray | None:
    return None if array is None else np.asarray(array)
