"""Optimizer and schedule configs. optax does the arithmetic; here are its names as typed config keys."""
from __future__ import annotations

from dataclasses import dataclass

import optax

from jaxbp.errors import InputError
from jaxbp.typed import Typed


@dataclass(frozen=True)
class Schedule(Typed):
    """The base of every schedule: the factor on the learning rate as a function of the step."""

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """step -> learning rate, for a run of `steps` steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        return optax.constant_schedule(learning_rate)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up from 0, then half a cosine down (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

    warmup: float = 0.0  # fraction of the run's steps, in [0, 1)
    final: float = 0.0  # last learning rate as a fraction of the first, in [0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "lie in [0, 1)")
        _check("final", self.final, 0 <= self.final <= 1, "lie in [0, 1]")

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        warmup = round(self.warmup * steps)
        cosine = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), self.final)
        ramp = optax.linear_schedule(0.0, learning_rate, warmup)
        return optax.join_schedules([ramp, cosine], [warmup]) if warmup else cosine


@dataclass(frozen=True)
class OptimizerConfig(Typed):
    """The base of every optimizer's config."""

    learning_rate: float = 0.1  # at the peak of the schedule, positive
    schedule: Schedule = Constant()  # how the learning rate changes over the run

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("learning_rate", self.learning_rate, self.learning_rate > 0, "be positive")

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optimizer of a run of `steps` steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(OptimizerConfig):
    """w -= learning_rate v with v = momentum v + g; Nesterov's form looks ahead, g + momentum v."""

    momentum: float = 0.0  # fraction of the velocity kept, in [0, 1); 0 is plain gradient descent
    nesterov: bool = False  # needs momentum

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "lie in [0, 1)")
        _check("nesterov", self.nesterov, bool(self.momentum) or not self.nesterov, "be False where momentum is 0")

    def build(self, steps: int) -> optax.GradientTransformation:
        return optax.sgd(self.schedule.build(self.learning_rate, steps), self.momentum or None, self.nesterov)


@dataclass(frozen=True)
class Adam(OptimizerConfig):
    """Steps of the mean gradient over the root of its mean square (Kingma & Ba 2015, arXiv 1412.6980)."""

    learning_rate: float = 1e-3  # at the peak of the schedule, positive
    b1: float = 0.9  # decay of the mean of gradients, in [0, 1)
    b2: float = 0.999  # decay of the mean of squares, in [0, 1)
    eps: float = 1e-8  # added to the root of the mean square, positive

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("b1", self.b1, 0 <= self.b1 < 1, "lie in [0, 1)")
        _check("b2", self.b2, 0 <= self.b2 < 1, "lie in [0, 1)")
        _check("eps", self.eps, self.eps > 0, "be positive")

    def build(self, steps: int) -> optax.GradientTransformation:
        return optax.adam(self.schedule.build(self.learning_rate, steps), self.b1, self.b2, self.eps)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    weight_decay: float = 1e-2  # learning_rate * weight_decay * w is taken off in every step, not negative

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "not be negative")

    def build(self, steps: int) -> optax.GradientTransformation:
        learning_rate = self.schedule.build(self.learning_rate, steps)
        return optax.adamw(learning_rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay)


def _check(key: str, given: object, holds: bool, must: str) -> None:
    if not holds:
        raise InputError(f"{key} must {must}, got {given}")
