"""The health of a run: what every layer's output, delta, gradient and update are like, every so many steps.

A compiled program of its own looks at the state before such a step. It makes that step and the next one on copies, for
the updates, and one sweep on a probe: rows of the training part that stay the same. The training program does not know
of it, so a run has the same bits with and without. Each look is a line of health.jsonl:

    rows              of the probe
    loss              of the probe, in training mode
    doubled           loss with all weights doubled, over the loss: 2, since losses are linear in their weights
    doubled_delta     the same of the norm of the first delta
    agreement         slope of the loss along the gradient, by differences, over the gradient's norm: 1
    errors            share of the probe that gets a wrong class
    sure_errors       the same among the half of it that the model is surest of
    noise_scale       batch size at which noise and gradient are as large (McCandlish et al. 2018, arXiv 1812.06162)
    cosine            of two successive updates, all parameters together
    layers            path -> what `_statistics` takes, in the order of the forward pass

A figure that is not defined, or not finite, is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.analysis import per_example
from jaxbp.backprop import value_and_grad
from jaxbp.config import Config
from jaxbp.core import Batch, Context, Layer, PyTree, Static, dot, leaf_layers, path_name
from jaxbp.data import Dataset, Splits
from jaxbp.devices.feed import MeshFeed
from jaxbp.devices.placement import Placement
from jaxbp.files import append_line
from jaxbp.layers import Recurrent
from jaxbp.layers.activations import Activation, Softmax
from jaxbp.layers.recurrent import with_carry
from jaxbp.losses import Loss
from jaxbp.rules import Rule
from jaxbp.training.evaluate import correct
from jaxbp.training.feeds import EpochFeed, StreamFeed
from jaxbp.training.folder import RunFolder
from jaxbp.training.logs import HEALTH
from jaxbp.training.report.language import once
from jaxbp.training.step import Feed, State
from jaxbp.wrappers import Kept, kept_in_order

PROBE = 128  # rows
FLAT = 1e-3  # a slope below it passes next to nothing
SHORT_STEP = 1e-3  # of the weights' norm: how far the differences along the gradient go


Step = Callable[[State, Batch], State]
Look = Callable[[State, Any, Any, Batch], PyTree]  # the feed and its index are traced


class Moved(NamedTuple):
    """A parameter with its last updates: the sweep carries them to the layer that they belong to."""

    weight: jax.Array
    update: jax.Array
    next_update: jax.Array


@dataclass(frozen=True)
class Health:
    """Looks at a run every `every` steps."""

    look: Look
    probe: Batch
    every: int
    file: Path

    def due(self, step: int) -> bool:
        """Whether a look precedes this step."""
        return step % self.every == 0

    def write(self, state: State, feed: EpochFeed | StreamFeed | MeshFeed, index: int, per_call: int) -> None:
        """Adds a line on the state before step `index` of the feed, where the last step was made.

        per_call: steps of a call of the training program, so that both are given arrays of the same shapes.
        """
        if not state.finite:
            return
        both, first = feed.call(index, max(per_call, 2))
        figures = jax.device_get(self.look(state, both, first, self.probe))
        if jax.process_index() > 0:  # all processes look, and the first one writes
            return
        layers = _by_layer(figures.pop("layers"))
        line = {"step": int(state.step), "rows": len(self.probe["y"])} | {
            name: _short(value) for name, value in figures.items()
        }
        append_line(self.file, json.dumps(line | {"layers": layers}))


def make_looks(
    config: Config, model: Layer, splits: Splits, step: Step, folder: RunFolder, placement: Placement | None
) -> Health | None:
    """The looks at a run; None where it asks for none."""
    every = config.run.health_every
    if every is None:
        return None
    classify = splits.classes is not None
    return make_health(model, config.loss, step, splits.train, classify, every, folder.path / HEALTH, placement)


def make_health(
    model: Layer,
    loss: Loss,
    step: Callable[[State, Batch], State],
    train: Dataset,
    classify: bool,
    every: int,
    file: Path,
    placement: Placement | None = None,
) -> Health:
    """The looks at a run of this model and loss. step: the run's own; train: the part whose rows the probe is.

    On a mesh every device computes the probe whole.
    """
    counting = train.counting()
    count = min(len(train), PROBE if counting.ndim == 1 else max(1, PROBE * 8 // counting.shape[1]))
    probe = train.take(np.arange(count) * len(train) // count).batch()
    everywhere = placement.everywhere if placement else None
    look = make_look(model, loss, step, classify and counting.ndim == 1, everywhere)
    return Health(look, jax.device_put(probe, everywhere), every, file)


def make_look(
    model: Layer, loss: Loss, step: Step, classify: bool, everywhere: jax.sharding.Sharding | None = None
) -> Look:
    """(state, feed, index, probe) -> the figures before step `index` of the feed, "layers" as the sweep gives them.

    everywhere: on all devices of a mesh; None: on one device.
    """
    model = once(with_carry(model, 0))
    keeping = kept_in_order(model)
    gradient = value_and_grad(model, loss)
    couples = any(leaf.couples_batch for leaf in leaf_layers(model))
    squared_norms = per_example.squared_norms(model, loss)

    @partial(jax.jit, out_shardings=everywhere)
    def look(state: State, feed: Feed, index: jax.Array, probe: Batch) -> PyTree:
        def one(state: State, i: jax.Array) -> tuple[State, PyTree]:
            after = step(state, feed.batch(index + i))
            return after, jax.tree.map(jnp.subtract, after.params, state.params)

        _, updates = jax.lax.scan(one, state, jnp.arange(2))
        now = jax.tree.map(lambda u: u[0], updates)
        then = jax.tree.map(lambda u: u[1], updates)
        ctx = Context(jax.random.fold_in(state.key, state.step), state.model)
        x, counted = ctx.counted(probe)
        y, cache = keeping.forward(state.params, x, counted)
        value, loss_cache = loss.forward(y, probe["y"], probe["weight"])
        dy = loss.backward(loss_cache)
        moved = jax.tree.map(Moved, state.params, now, then)
        _, layers = keeping.sweep(Rule(_statistics), moved, cache, dy)
        grads = gradient(state.params, probe, ctx).grads
        twice = loss.forward(y, probe["y"], 2 * probe["weight"])
        figures = {
            "loss": value,
            "doubled": twice[0] / value,
            "doubled_delta": _norm(loss.backward(twice[1])) / _norm(dy),
            "agreement": _agreement(lambda p: gradient(p, probe, ctx).value, state.params, grads, value, y.dtype),
            "cosine": dot(now, then) / (_norm(now) * _norm(then)),
            "layers": layers,
        }
        if classify:
            figures |= _errors(y, probe["y"], loss.threshold)
        if not couples:
            norms = jax.tree.reduce(jnp.add, squared_norms(state.params, probe, ctx))
            figures["noise_scale"] = per_example.noise(norms, grads).scale
        return figures

    return look


def _norm(tree: PyTree) -> jax.Array:
    """The norm of all arrays of a tree together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(a.astype(jnp.float32))) for a in jax.tree.leaves(tree)))


def _statistics(
    layer: Any, moved: PyTree, cache: Kept, dy: PyTree
) -> tuple[PyTree, tuple[Static, dict[str, jax.Array]]]:
    """The rule that takes, at each leaf layer in its Keep, the Keep's index, and:

    delta, gradient, weight, update   norms; the last three of layers with parameters
    cosine      of two successive updates
    kept        share of the weights with a gradient that the update leaves as they were
    mean, spread    of the output's entries
    alike       spread of the units beside each other, over the output's size: 0 where all units do the same
    stuck       share of an activation's units whose slope is below FLAT in every row
    saturated   share of the entries where a function that is flat at both ends has under 5 % of its slope at 0
    growth      of the delta on its way back through time: its largest norm over that of the last quarter
    """
    is_moved = lambda node: isinstance(node, Moved)
    entry_of = lambda i: jax.tree.map(lambda m: m[i], moved, is_leaf=is_moved)
    params, update, after = map(entry_of, range(3))
    dx, grads = layer.backward(params, cache, dy)
    taken = {"delta": _norm(dy)}
    if grads:
        taken |= {"gradient": _norm(grads), "weight": _norm(params), "update": _norm(update)}
        taken["cosine"] = dot(update, after) / (_norm(update) * _norm(after))
        if dx is not None:  # else rows that were not looked up have no update
            moving = [g != 0 for g in jax.tree.leaves(grads)]
            still = [jnp.sum((u == 0) & m) for u, m in zip(jax.tree.leaves(update), moving, strict=True)]
            taken["kept"] = sum(still) / jnp.maximum(sum(map(jnp.sum, moving)), 1)
    if isinstance(cache.y, jax.Array) and jnp.issubdtype(cache.y.dtype, jnp.floating):
        y = cache.y.astype(jnp.float32)
        taken |= {"mean": jnp.mean(y), "spread": jnp.std(y)}
        if grads and y.shape[-1] > 1:
            taken["alike"] = jnp.sqrt(jnp.mean(jnp.var(y, -1)) / jnp.mean(jnp.square(y)))
    if isinstance(layer.inner, Activation) and not isinstance(layer.inner, Softmax):
        slopes = jnp.abs(layer.backward(params, cache, jnp.ones_like(dy))[0])
        rows = slopes.reshape(-1, slopes.shape[-1])
        taken["stuck"] = jnp.mean(jnp.max(rows, 0) < FLAT)
        points = jnp.array([-30.0, 0.0, 30.0], dy.dtype)
        left, middle, right = jnp.abs(
            layer.inner.backward(params, layer.inner.forward({}, points)[1], jnp.ones_like(points))[0]
        )
        share = jnp.mean(rows < 0.05 * middle)
        taken["saturated"] = jnp.where((left < FLAT) & (right < FLAT), share, jnp.nan)
    if isinstance(layer.inner, Recurrent):
        deltas = layer.factors(params, cache, dy)["wx"].g  # [N, T, G]
        norms = jnp.sqrt(jnp.einsum("ntg,ntg->t", deltas, deltas))
        last = norms[-max(1, len(norms) // 4) :]
        taken["growth"] = jnp.max(norms) / jnp.max(last)
    return dx, (Static(layer.index), taken)


def _agreement(value_of: Callable, params: PyTree, grads: PyTree, value: jax.Array, dtype: Any) -> jax.Array:
    """The slope of the loss along the gradient by central differences, over the gradient's norm.

    nan where the differences cannot tell: the loss has too few digits, or bends too much within the step.
    """
    norm = _norm(grads)
    length = SHORT_STEP * _norm(params)
    moved = lambda sign: jax.tree.map(lambda p, g: p + (sign * length / norm * g).astype(p.dtype), params, grads)
    ahead, behind = value_of(moved(1)), value_of(moved(-1))
    rise = ahead - behind
    clear = (jnp.abs(rise) > 100 * jnp.finfo(dtype).eps * jnp.abs(value)) & (
        jnp.abs(ahead + behind - 2 * value) < jnp.abs(rise) / 4
    )
    return jnp.where(clear, rise / (2 * length * norm), jnp.nan)


def _errors(y: jax.Array, target: jax.Array, threshold: float) -> dict[str, jax.Array]:
    """The shares of wrong classes, in all rows and in the half with the widest margin."""
    wrong = ~correct(y, target, threshold)
    if y.shape[-1] == 1:
        margin = jnp.abs(y[:, 0] - threshold)
    else:
        first, second = jnp.moveaxis(jax.lax.top_k(y, 2)[0], -1, 0)
        margin = first - second
    sure = jnp.argsort(-margin)[: max(1, len(margin) // 2)]
    return {"errors": jnp.mean(wrong), "sure_errors": jnp.mean(wrong[sure])}


def _by_layer(taken: PyTree) -> dict[str, dict[str, float | None]]:
    """{path: {name: figure}} in the order of the forward pass.

    The blocks of a Stack have their number behind the path; those of one layer stand together.
    """
    layers: dict[str, dict[str, float | None]] = {}
    of_layers = jax.tree_util.tree_leaves_with_path(taken, is_leaf=lambda node: isinstance(node, tuple))
    for keys, (_, figures) in sorted(of_layers, key=lambda of_layer: of_layer[1][0].value):
        path = path_name(keys)
        for name, figure in figures.items():
            entries = np.asarray(figure)
            for i, entry in enumerate(entries.ravel()):
                layers.setdefault(f"{path} {i}" if entries.ndim else path, {})[name] = _short(entry)
    return layers


def _short(value: Any) -> float | None:
    """Four significant digits."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
