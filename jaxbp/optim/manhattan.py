"""Batch Manhattan: steps of one size along every weight, in the direction of the batch's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import optax

from jaxbp.optim.first_order import FirstOrder
from jaxbp.typed import Fraction, Positive


@dataclass(frozen=True)
class BatchManhattan(FirstOrder):
    """w -= learning_rate v with v = momentum v + sign g (Liao, Leibo & Poggio 2016, arXiv 1510.05067, section 3.3).

    It keeps of the gradient what `credit.SignSymmetric` gets nearly right, its signs.

    Args:
        learning_rate: at the peak of the schedule
        momentum: fraction of the velocity that a step keeps
    """

    learning_rate: Positive = 1e-4
    momentum: Fraction = 0.9

    def core(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_sign(), optax.trace(self.momentum), optax.scale_by_learning_rate(learning_rate)
        )
