"""What float16 asks of a training step: a scale of the loss, which follows what overflows.

float16 holds nothing above 65504, and what is below 6e-8 is 0: small deltas vanish. So the loss is scaled up before the
sweep and the gradient down after it, by a power of two, which rounds nothing (Micikevicius et al. 2018, arXiv
1710.03740, sections 3.2 and 3.3). A gradient that is not finite shows that the scale was too large: the step is
skipped, and the scale is halved. After PATIENCE finite steps it is doubled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, register
from jaxbp.wrappers import ComputedIn

FIRST = 2.0**15  # the scale of the first step
LARGEST = 2.0**24  # times any loss it is finite in float32
PATIENCE = 2000


@partial(register, data_fields=["scale", "steps"], meta_fields=[])
@dataclass(frozen=True)
class Scaling:
    """The scale of the loss, a power of two, and how many steps were finite since it changed."""

    scale: jax.Array  # float32
    steps: jax.Array  # int32

    @classmethod
    def of(cls, model: Layer) -> Scaling | None:
        """That of the first step of a model in float16; None for another."""
        needed = isinstance(model, ComputedIn) and model.dtype == "float16"
        return cls(jnp.float32(FIRST), jnp.int32(0)) if needed else None

    def after_finite(self) -> Scaling:
        """Doubled after PATIENCE of them."""
        due = self.steps + 1 >= PATIENCE
        grown = jnp.minimum(2 * self.scale, LARGEST)
        return Scaling(jnp.where(due, grown, self.scale), jnp.where(due, 0, self.steps + 1))

    def after_overflow(self) -> Scaling:
        """Half of it."""
        return Scaling(self.scale / 2, jnp.zeros_like(self.steps))

    @property
    def can_fall(self) -> jax.Array:
        """Whether a smaller scale may help: at 1 what overflows is the gradient itself."""
        return self.scale > 1


def loss_scaled(gradient: Callable[..., Result]) -> Callable[..., Result]:
    """`gradient` of batch["scale"] times the loss, divided by that scale again.

    The scale goes in through the weights of the losses, so that the deltas are as large from the first one on.
    """

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Result:
        batch = dict(batch)
        scale = batch.pop("scale")
        result = gradient(params, batch | {"weight": batch["weight"] * scale}, ctx)
        grads = jax.tree.map(lambda g: g / scale.astype(g.dtype), result.grads)
        return result._replace(value=result.value / scale, grads=grads)

    return run
