"""Twelve ways in which a run can be sick, each one fault in a healthy config, and the rule that names it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.compose import Chain
from jaxbp.config import Config, Run
from jaxbp.core import Layer
from jaxbp.data import Adding, Embedded, Splits
from jaxbp.data.pipeline import Dataset
from jaxbp.inits import Constant, Normal
from jaxbp.layers import Dense, Flatten, Recurrent, ReLU, Sigmoid, SimpleCell
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP, LayerModel
from jaxbp.optim import SGD, AdamW, Cosine

DIGITS = Embedded("digits", scaling="min_max")


def healthy(**changes: Any) -> Config:
    """Handwritten digits by 64 ReLUs; some three hundred steps."""
    base = Config(
        data=DIGITS,
        model=MLP(outputs=10, hidden=(64,)),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=3e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=8, batch_size=32, health_every=15, evaluate_every=4),
    )
    return replace(base, **changes)


def with_rate(config: Config, factor: float) -> Config:
    return replace(config, optimizer=replace(config.optimizer, learning_rate=factor * config.optimizer.learning_rate))


def dense(width: int, **changes: Any) -> Dense:
    return Dense(width, **({"w_init": "glorot_normal"} | changes))


def layers(*parts: Layer) -> LayerModel:
    return LayerModel.of(Chain(Flatten(), *parts))


@dataclass(frozen=True)
class Spoilt(Embedded):
    """Digits with a fault in the training part.

    Args:
        fault: which
    """

    fault: str = ""

    def load(self) -> Splits:
        splits = super().load()
        rng = np.random.default_rng(0)
        x, y = splits.train.x, splits.train.y
        if self.fault == "sorted":
            order = np.argsort(y, kind="stable")
            x, y = x[order], y[order]
        elif self.fault == "labels":
            y = np.where(rng.random(len(y)) < 0.25, rng.integers(0, 10, len(y)), y).astype(np.int32)
        elif self.fault == "leak":
            half = len(splits.test) // 2
            x, y = np.concatenate([x, splits.test.x[:half]]), np.concatenate([y, splits.test.y[:half]])
        return replace(splits, train=Dataset(x, y))


def spoilt(fault: str, **run: Any) -> Config:
    config = healthy(data=Spoilt("digits", scaling="min_max", fault=fault))
    return replace(config, run=replace(config.run, **run))


@dataclass(frozen=True)
class Summed(SoftmaxCrossEntropy):
    """The sum over the batch where the mean was meant: 1/N is missing."""

    def forward(self, y: Any, target: jax.Array, weight: jax.Array) -> tuple[jax.Array, Any]:
        return super().forward(y, target, (weight > 0).astype(weight.dtype))


@dataclass(frozen=True)
class Half(Dense):
    """A dense layer whose weights are bfloat16."""

    def init(self, key: jax.Array, spec: Any) -> Any:
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16), super().init(key, spec))


@dataclass(frozen=True)
class TimesN(Dense):
    """A dense layer that forgets 1/N in its backward pass: its gradients are 32 times too large."""

    def backward(self, params: Any, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, Any]:
        dx, grads = super().backward(params, x, dy)
        return dx, jax.tree.map(lambda g: 32 * g, grads)


def exploding() -> Config:
    cell = SimpleCell(32, activation="relu", wh_init=Normal(0.4))
    return Config(
        data=Adding(length=40, examples=600, test_examples=50),
        model=LayerModel.of(Chain(Recurrent(cell, output="last"), Dense(1))),
        loss=SquaredError("mean"),
        optimizer=SGD(learning_rate=0.01),
        run=Run(epochs=2, batch_size=32, health_every=5),
    )


def sick() -> dict[str, tuple[Config, str]]:
    """{name: (config, the rule that names it)}."""
    deep = [layer for _ in range(20) for layer in (dense(32), Sigmoid())]
    flat = [layer for _ in range(2) for layer in (dense(64, w_init=Normal(20.0)), Sigmoid())]
    loud = [layer for _ in range(2) for layer in (dense(128, w_init=Normal(1.0)), ReLU())]
    slow = AdamW(learning_rate=2e-5)
    return {
        "rate x 100": (with_rate(healthy(), 100), "rate too high"),
        "rate / 1000": (with_rate(healthy(), 1e-3), "rate too low"),
        "dead ReLUs": (healthy(model=layers(dense(64, b_init=Constant(-5.0)), ReLU(), dense(10))), "dead"),
        "saturated sigmoids": (healthy(model=layers(*flat, dense(10))), "saturated"),
        "vanishing": (healthy(model=layers(*deep, dense(10)), optimizer=SGD(0.1)), "vanishing"),
        "exploding": (exploding(), "exploding"),
        "not shuffled": (spoilt("sorted", shuffle=False), "shuffle"),
        "label noise": (spoilt("labels"), "labels"),
        "1/N missing": (healthy(loss=Summed()), "average"),
        "bad start": (healthy(model=layers(*loud, dense(10, w_init=Normal(1.0)))), "start"),
        "test rows in training": (spoilt("leak"), "leak"),
        "bfloat16": (healthy(model=layers(Half(64), ReLU(), Half(10)), optimizer=slow), "lost updates"),
    }
