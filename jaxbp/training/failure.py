"""What a run leaves after a value that is not finite: the first bad layer by name, and a bundle to replay the step."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.config import Config
from jaxbp.core import Batch, Context, Layer, PyTree, path_name
from jaxbp.errors import InputError
from jaxbp.files import as_json, check_held, overwrite, set_aside
from jaxbp.losses import Loss
from jaxbp.rules import Rule
from jaxbp.training.checkpoint import delete_bundle, load_arrays, save_arrays, verify, write_manifest
from jaxbp.training.step import State, initial_state, prepared
from jaxbp.wrappers import kept_in_order


@dataclass(frozen=True)
class Fault:
    """An array of one layer that is not finite."""

    index: int  # of the layer in forward order
    layer: str  # its path
    kind: str  # "output", "delta" or "gradient"

    def __str__(self) -> str:
        return f"the {self.kind} of layer {self.layer}"


def _bad_index(layer: Any, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    """-> (dx, {kind: the index of the layer, a Keep, where that array is not finite, else -1})."""
    dx, grads = layer.backward(params, cache, dy)
    finite = lambda tree: jnp.all(jnp.array([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(tree)]))
    flags = {"output": finite(cache.y), "delta": finite(dy), "gradient": finite(grads)}
    return dx, {kind: jnp.where(flag, -1, layer.index) for kind, flag in flags.items()}


def diagnose(model: Layer, loss: Loss, params: PyTree, batch: Batch, ctx: Context) -> str:
    """The first thing that is not finite: inputs, parameters, outputs in forward order, the loss, then back."""
    for name, tree in (("the batch", {"x": batch["x"], "y": batch["y"]}), ("the parameters", params)):
        if first := first_not_finite(tree):
            return f"{name}, {first}"
    watched = kept_in_order(model)
    x, ctx = ctx.counted(batch)
    y, cache = watched.forward(params, x, ctx)
    value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
    _, indices = watched.sweep(Rule(_bad_index), params, cache, loss.backward(loss_cache))
    outputs: list[Fault] = []
    others: list[Fault] = []
    for path, index in jax.tree_util.tree_leaves_with_path(indices):
        layer, _, kind = path_name(path).rpartition("/")
        fault = Fault(int(jnp.max(index)), layer, kind)
        if fault.index >= 0:
            (outputs if kind == "output" else others).append(fault)
    if outputs:
        return str(min(outputs, key=lambda fault: fault.index))
    if not bool(jnp.isfinite(value)):
        return "the loss"
    if others:  # the sweep meets the last layer first, and its delta before its gradient
        return str(max(others, key=lambda fault: (fault.index, fault.kind == "delta")))
    return "the sum of the gradients, which overflows"


def first_not_finite(tree: PyTree) -> str | None:
    """The path of the first array of the tree with an entry that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
            return path_name(path)
    return None


def write_bundle(folder: Path, state: State, batch: Batch, first: str) -> None:
    """Writes the state before the failing step and its batch into the run folder, for `replay`."""
    bundle = folder / "failure"
    check_held(bundle)
    delete_bundle(bundle)  # that of an earlier try
    if os.path.lexists(bundle):  # with files of others in it
        set_aside(bundle)
    save_arrays(bundle / "arrays", {"state": state, "batch": batch})
    spec = lambda a: [list(a.shape), str(a.dtype)]
    facts = {"step": int(state.step), "first": first, "batch": jax.tree.map(spec, batch)}
    overwrite(bundle / "facts.json", as_json(facts))
    write_manifest(bundle)


def replay(config: Config, folder: Path) -> tuple[int, str]:
    """(step, what is not finite first) of the failing step in the run folder, computed again from its bundle.

    Raises InputError where the folder has no bundle, or a damaged one.
    """
    bundle = folder / "failure"
    if not bundle.is_dir() or verify(bundle):
        raise InputError(f"{folder} holds no failing step to replay")
    facts = json.loads((bundle / "facts.json").read_text())
    model = config.build_model()
    batch = {name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (shape, dtype) in facts["batch"].items()}
    optimizer = config.build_optimizer(1, batch["x"])
    state = jax.eval_shape(lambda: initial_state(model, optimizer, batch["x"], 0, config.credit))
    stored = load_arrays(bundle / "arrays", {"state": state, "batch": batch})
    inputs, ctx = prepared(stored["state"], stored["batch"], config.data.augment)
    return facts["step"], diagnose(model, config.loss, stored["state"].params, inputs, ctx)


def remedy(config: Config) -> str:
    """What to lower where numbers overflow."""
    rate = getattr(config.optimizer, "learning_rate", None)
    return "make the optimizer's steps smaller" if rate is None else f"lower optimizer.learning_rate, {rate:g} so far"
