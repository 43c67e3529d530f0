"""What a run leaves where something was not finite: the first bad layer by name, and a bundle that replays the step."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxbp.config import Config
from jaxbp.core import Batch, Context, Layer, PyTree, map_leaves, path_name
from jaxbp.errors import InputError
from jaxbp.files import write_json
from jaxbp.rules import Rule
from jaxbp.train.checkpoint import load_arrays, save_arrays, verify, write_manifest
from jaxbp.train.step import State, initial_state, prepared
from jaxbp.wrappers import Keep


def _finiteness(layer: Keep, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
    dx, grads = layer.backward(params, cache, dy)
    finite = lambda tree: jnp.all(jnp.array([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(tree)]))
    flags = {"output": finite(cache.y), "delta": finite(dy), "gradient": finite(grads)}
    return dx, {kind: jnp.where(flag, -1, layer.index) for kind, flag in flags.items()}


def diagnose(model: Layer, loss: object, params: PyTree, batch: Batch, ctx: Context) -> str:
    """The first thing that is not finite: inputs, parameters, outputs in forward order, the loss, then back."""
    for name, tree in (("the batch", {"x": batch["x"], "y": batch["y"]}), ("the parameters", params)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
                return f"{name}, {path_name(path)}"
    count = itertools.count()
    watched = map_leaves(model, lambda leaf: Keep(leaf, next(count)))  # numbered in forward order
    y, cache = watched.forward(params, batch["x"], ctx)
    value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
    _, found = watched.sweep(Rule(_finiteness), params, cache, loss.backward(loss_cache))
    bad = [(int(jnp.max(index)), path_name(path)) for path, index in jax.tree_util.tree_leaves_with_path(found)]
    name = lambda path: f"the {path.rpartition('/')[2]} of layer {path.rpartition('/')[0]}"
    forward = [(index, path) for index, path in bad if index >= 0 and path.endswith("output")]
    back = [(index, path) for index, path in bad if index >= 0 and not path.endswith("output")]
    if forward:
        return name(min(forward)[1])
    if not bool(jnp.isfinite(value)):
        return "the loss"
    if back:
        return name(max(back, key=lambda found: (found[0], found[1].endswith("delta")))[1])
    return "the sum of the gradients, which overflows"


def write_bundle(folder: Path, state: State, batch: Batch, first: str) -> None:
    """The state before the failing step and its batch, to be replayed; folder is the run's."""
    target = folder / "failure"
    shutil.rmtree(target, ignore_errors=True)  # that of an earlier try
    save_arrays(target / "arrays", {"state": state, "batch": batch})
    spec = lambda a: [list(a.shape), str(a.dtype)]
    write_json(target / "facts.json", {"step": int(state.step), "first": first, "batch": jax.tree.map(spec, batch)})
    write_manifest(target)


def replay(config: Config, folder: Path) -> tuple[int, str]:
    """(step, what is not finite first) of the failing step in the run folder, computed again from its bundle.

    Raises InputError where there is none, or it is damaged.
    """
    target = folder / "failure"
    if not target.is_dir() or verify(target):
        raise InputError(f"{folder} holds no failing step to replay")
    facts, model = json.loads((target / "facts.json").read_text()), config.model.build()
    batch = {name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (shape, dtype) in facts["batch"].items()}
    optimizer = config.build_optimizer(1, batch["x"])
    state = jax.eval_shape(lambda: initial_state(model, optimizer, batch["x"], 0))
    stored = load_arrays(target / "arrays", {"state": state, "batch": batch})
    inputs, ctx = prepared(stored["state"], stored["batch"], config.data.augment)
    return facts["step"], diagnose(model, config.loss, stored["state"].params, inputs, ctx)
