"""Which experiments the page's own engine (engine.js) can compute again, and what it is told of them.

These are chains of dense layers and activations with a common loss and SGD, Adam or AdamW. Of all others the page shows
the numbers that were recorded.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp import layers, losses
from jaxbp.compose import Chain
from jaxbp.core import Layer, path_name
from jaxbp.credit import Backpropagation
from jaxbp.optim import SGD, Adam, AdamW
from jaxbp.page.setting import Setting

UNITS = 16  # of the widest layer that is drawn
LAYERS = 12
WEIGHTS = 300
EXAMPLES = 16
KINDS: dict[type[Layer], str] = {
    layers.Dense: "dense",
    layers.Sigmoid: "sigmoid",
    layers.Tanh: "tanh",
    layers.ReLU: "relu",
    layers.LeakyReLU: "leaky_relu",
    layers.Softplus: "softplus",
    layers.Softmax: "softmax",
    layers.Identity: "identity",
    layers.Flatten: "identity",
}


def network(start: Setting, rates: int) -> dict[str, Any] | None:
    """The net for the engine, with the learning rates of so many steps; None where it is not for the engine to compute.

    {"layers": [{"name", "kind", "slope"}], "loss", "optimizer", "penalties", "params", "batch"}; the inputs are rows of
    numbers.
    """
    model, loss, optimizer = start.model, _loss(start), _optimizer(start, rates)
    if type(model) is not Chain or loss is None or optimizer is None or start.config.credit != Backpropagation():
        return None
    described = [
        {"name": name, "kind": KINDS[type(layer)], "slope": getattr(layer, "negative_slope", 0.0)}
        for _, name, layer in model.named()
        if type(layer) in KINDS
    ]
    x = np.asarray(start.batch["x"])
    is_flat = x.ndim == 2 or (x.ndim > 2 and type(model.layers[0]) is layers.Flatten)
    if len(described) < len(model.layers) or "dense" not in {layer["kind"] for layer in described}:
        return None
    if not is_flat or x.dtype.kind != "f" or start.batch["weight"].ndim != 1:
        return None
    x = x.reshape(len(x), -1)
    sizes = [w.shape for w in jax.tree.leaves(start.params) if w.ndim == 2]
    widest = max(max(shape) for shape in sizes)
    if widest > UNITS or sum(o * i for o, i in sizes) > WEIGHTS or len(x) > EXAMPLES or len(described) > LAYERS:
        return None
    return {
        "layers": described,
        "loss": loss,
        "optimizer": optimizer,
        "penalties": _penalties(start),
        "params": jax.tree.map(lambda p: np.asarray(p).tolist(), start.params),
        "batch": {
            "x": x.tolist(),
            "y": _targets(np.asarray(start.batch["y"]), start.outputs).tolist(),
            "weight": np.asarray(start.batch["weight"]).tolist(),
        },
    }


def _loss(start: Setting) -> dict[str, Any] | None:
    loss = start.config.loss
    if isinstance(loss, losses.SquaredError):
        return {"kind": "squared", "factor": loss.factor(start.outputs)}
    plain = {
        losses.AbsoluteError(): "absolute",
        losses.BinaryCrossEntropy(): "binary",
        losses.SoftmaxCrossEntropy(): "softmax",
    }
    return {"kind": plain[loss], "factor": 1.0} if loss in plain else None


def _optimizer(start: Setting, rates: int) -> dict[str, Any] | None:
    optimizer = start.config.optimizer
    if not isinstance(optimizer, SGD | Adam):
        return None
    others = (optimizer.clip_value, optimizer.clip_norm, optimizer.plateau, optimizer.private)
    if any(other is not None for other in others) or any(group.weight_decay for group in optimizer.groups):
        return None
    rate = optimizer.schedule.build(optimizer.learning_rate, start.steps)
    group = lambda i: optimizer.groups[i].learning_rate_factor if optimizer.groups else 1.0
    groups = jax.tree_util.tree_leaves_with_path(optimizer.group_of(start.params))
    common = {
        "rates": [float(rate(jnp.asarray(step, jnp.int32))) for step in range(rates)],
        "factors": {path_name(path): group(i) for path, i in groups},
    }
    if isinstance(optimizer, SGD):
        return common | {"kind": "sgd", "momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
    decay = optimizer.weight_decay if isinstance(optimizer, AdamW) else 0.0
    return common | {"kind": "adam", "b1": optimizer.b1, "b2": optimizer.b2, "eps": optimizer.eps, "decay": decay}


def _penalties(start: Setting) -> dict[str, list[float]]:
    """{path of a parameter: [l2, l1]} where there is a penalty on it."""
    chosen = [
        (penalty, jax.tree_util.tree_leaves_with_path(penalty.chosen(start.params))) for penalty in start.penalties
    ]
    return {path_name(path): [penalty.l2, penalty.l1] for penalty, leaves in chosen for path, _ in leaves}


def _targets(y: np.ndarray, outputs: int) -> np.ndarray:
    """The targets as numbers [N, O]: labels of several outputs as a one in their place."""
    if y.dtype.kind == "f":
        return y
    return np.eye(outputs)[y] if outputs > 1 else y[:, None].astype(float)
