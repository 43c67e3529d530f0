"""The loss of a variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114, appendix B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxbp.core import PyTree
from jaxbp.errors import InputError
from jaxbp.losses import Loss
from jaxbp.typed import Count


@dataclass(frozen=True)
class NegativeELBO(Loss):
    """Minus the evidence lower bound: binary cross-entropy of the pixels, and the code's divergence from N(0, 1).

    Outputs are (a, m, s) side by side: O logits like the target, then L means and L logarithms of variances, which a
    `Gaussian` draws the code from. Targets [..., O] lie in [0, 1]. In evaluation the code is its mean, and the loss no
    bound.

        sum_o ln(1 + e^a) - t a  +  sum_l (m^2 + e^s - s - 1) / 2
        da = sigmoid(a) - t,   dm = m,   ds = (e^s - 1) / 2                  beside what comes through the code

    Args:
        latent: L, the numbers of the code
    """

    latent: Count = 8

    def prediction(self, y: Any) -> Any:
        """The mean pixels, in [0, 1]."""
        from scipy.special import expit

        return expit(y[..., : -2 * self.latent])

    def check(self, y: tuple[int, ...], target: tuple[int, ...], is_float: bool) -> None:
        if not is_float or y != (*target[:-1], target[-1] + 2 * self.latent):
            raise InputError(
                f"NegativeELBO: float targets [..., O] need outputs [..., O + {2 * self.latent}], twice the latent "
                f"numbers more, got targets {list(target)} and outputs {list(y)}"
            )

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        pixels = target.shape[-1]
        a, m, s = jnp.split(y, (pixels, pixels + self.latent), -1)
        likelihood = jnp.sum(target * jax.nn.softplus(-a) + (1 - target) * jax.nn.softplus(a), -1)
        divergence = jnp.sum(m * m + jnp.expm1(s) - s, -1) / 2
        return likelihood + divergence, (a, m, s, target)

    def deltas(self, cache: PyTree) -> jax.Array:
        a, m, s, target = cache
        return jnp.concatenate([jax.nn.sigmoid(a) - target, m, jnp.expm1(s) / 2], -1)
