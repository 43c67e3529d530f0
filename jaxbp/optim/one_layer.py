"""Rules of one layer of weights, older than backpropagation, that need no derivative of the loss.

    Perceptron   w -= rate (H(y) - t) x                H(y) is 1 above the threshold of the loss, else 0; t is 0 or 1
                                                       (Rosenblatt 1958)
    DeltaRule    w -= rate (y - t) x                   least mean squares, LMS (Widrow & Hoff 1960)
    Adaline      w -= rate (y - t) x / |x|^2           the same in units of the input: it takes the share `rate` of an
                                                       example's error away (Widrow & Lehr 1990, section V)

with y = w x + b, where b counts as the weight of an input of 1. The rules are online, which is run.batch_size=1; of a
larger batch they take the mean. Adaline answers with H(y) as the perceptron does, but learns from y.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxbp.backprop import Result, item_weights
from jaxbp.compose import Chain, Graph
from jaxbp.core import Batch, Context, Layer, PyTree, entry, layers_in, state_after
from jaxbp.errors import InputError
from jaxbp.layers import Dense, Flatten, Identity
from jaxbp.losses import Loss, SquaredError
from jaxbp.optim.config import Array, OptimizerConfig
from jaxbp.optim.objective import Objective
from jaxbp.typed import Positive, Range


@dataclass(frozen=True)
class OneLayer(OptimizerConfig):
    """The base: a subclass says what the error of an output is. The loss is only reported.

    Args:
        learning_rate: of the step along the rule's direction
    """

    learning_rate: Positive = 1.0

    @property
    def is_plain(self) -> bool:
        """No: the direction is the rule's own."""
        return False

    @abstractmethod
    def error(self, y: jax.Array, target: jax.Array, squares: jax.Array, threshold: float) -> jax.Array:
        """Like y [..., O]; squares [..., 1]: |x|^2 of each item, the input of 1 included where there is a bias."""
        raise NotImplementedError

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optax.sgd(self.learning_rate))

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        """The rule's direction. Raises InputError for a model of more than one Dense."""
        name = type(self).__name__
        layers = [layer for layer in layers_in(model) if not isinstance(layer, Chain | Graph | Flatten | Identity)]
        if len(layers) != 1 or not isinstance(layers[0], Dense):
            raise InputError(f"{name} trains one Dense and nothing else, got {', '.join(map(str, layers))}")
        bias = float(layers[0].bias)

        def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
            x, ctx = ctx.counted(batch)
            y, cache = model.forward(params, x, ctx)
            target, weight = entry(batch, "y"), item_weights(batch, y)
            if target.size != y.size:
                raise InputError(f"{name} needs a target for each output {list(y.shape)}, got {list(target.shape)}")
            value, _ = loss.forward(y, target, weight)
            self.check_targets(target, weight)
            squares = jnp.sum(jnp.square(x.reshape(*y.shape[:-1], -1)), -1, keepdims=True) + bias
            error = self.error(y, target.reshape(y.shape).astype(y.dtype), squares, loss.threshold)
            shares = weight[..., None]
            dy = jnp.where(shares == 0, 0, shares.astype(y.dtype) * error)
            return Result(value, model.backward(params, cache, dy)[1], state_after(model, ctx, cache), y)

        return run


@dataclass(frozen=True)
class Perceptron(OneLayer):
    """Rosenblatt's rule: only mistakes change the weights.

    From weights of zero, on data that a unit vector u separates with t (u x) >= margin for t = +-1, it makes at most
    (radius / margin)^2 mistakes in all, radius the largest |x| (Novikoff 1962), whatever the learning rate.

    Raises InputError for targets other than 0 and 1, those of a run and those of a call that is not traced.

    Args:
        learning_rate: of the step that a mistake makes
    """

    def check_targets(self, target: Array, weight: Array) -> None:
        if isinstance(target, jax.core.Tracer) or isinstance(weight, jax.core.Tracer):
            return
        counted = np.asarray(target)[np.asarray(weight) != 0]
        strange = counted[(counted != 0) & (counted != 1)]
        if strange.size:
            raise InputError(f"Perceptron needs targets of 0 or 1, got {strange[0]}")

    def error(self, y: jax.Array, target: jax.Array, squares: jax.Array, threshold: float) -> jax.Array:
        return (y > threshold).astype(y.dtype) - target


@dataclass(frozen=True)
class DeltaRule(OneLayer):
    """Widrow and Hoff's rule, least mean squares. Exact: the gradient of SquaredError("half_sum").

    Args:
        learning_rate: converges in the mean below 2 / (largest eigenvalue of the mean of x x^T)
    """

    learning_rate: Positive = 0.1

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        if not isinstance(loss, SquaredError):
            raise InputError(f"{type(self).__name__} needs loss=SquaredError, got {type(loss).__name__}")
        return super().gradient(model, loss)

    def error(self, y: jax.Array, target: jax.Array, squares: jax.Array, threshold: float) -> jax.Array:
        return y - target


@dataclass(frozen=True)
class Adaline(DeltaRule):
    """The delta rule of an adaptive linear unit: a step takes a share of the example's error away, whatever its size.

    Args:
        learning_rate: the share; from 1 on it overshoots
    """

    learning_rate: Annotated[float, Range(0, 2, "()")] = 0.5

    def error(self, y: jax.Array, target: jax.Array, squares: jax.Array, threshold: float) -> jax.Array:
        return (y - target) / jnp.maximum(squares, jnp.finfo(y.dtype).tiny)
