"""Learning-rate schedules as typed config keys; optax does the arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import optax

from jaxbp.typed import Fraction, Range, Typed


@dataclass(frozen=True)
class Schedule(Typed, ABC):
    """The base of every schedule: the factor on the learning rate as a function of the step."""

    @abstractmethod
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
    """Linear warm-up from 0, then half a cosine down (Loshchilov & Hutter 2017, arXiv 1608.03983).

    Args:
        warmup: fraction of the run's steps
        final: last learning rate as a fraction of the first
    """

    warmup: Fraction = 0.0
    final: Annotated[float, Range(0, 1)] = 0.0

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        warmup = round(self.warmup * steps)
        cosine = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1), self.final)
        ramp = optax.linear_schedule(0.0, learning_rate, warmup)
        return optax.join_schedules([ramp, cosine], [warmup]) if warmup else cosine
