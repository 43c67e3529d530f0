"""A stochastic node: a normal number with a mean and a variance that are learned, by reparametrization.

    forward   z = m + e^(s / 2) noise,   noise ~ N(0, 1)         x = (m, s), s the logarithm of the variance
    backward  dm = dz,                   ds = dz noise e^(s / 2) / 2

The noise does not depend on the parameters, so the gradient of one draw is an unbiased estimate of that of the mean
over draws (Kingma & Welling 2014, arXiv 1312.6114; Rezende et al. 2014, arXiv 1401.4082). Keeps noise e^(s / 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, shaped
from jaxbp.errors import InputError


@dataclass(frozen=True)
class Gaussian(Layer):
    """x [..., 2 L], L means and then L logarithms of variances, -> z [..., L], drawn anew from every context's key.

    In evaluation z is the mean. Raises InputError in training without a key, and for an odd number of features.
    """

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array | None]:
        if x.shape[-1] % 2:
            raise InputError(f"Gaussian: the input has means and as many variances, got {x.shape[-1]} features")
        mean, log_variance = jnp.split(x, 2, -1)
        if not ctx.train:
            return mean, None
        if ctx.key is None:
            raise InputError("Gaussian: training needs a random key: pass Context(key=jax.random.key(seed))")
        noise = ctx.own_rows(partial(jax.random.normal, ctx.key), mean.shape).astype(x.dtype)
        drawn = noise * jnp.exp(log_variance / 2)
        return mean + drawn, drawn

    def backward(self, params: PyTree, drawn: jax.Array | None, dz: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.concatenate([dz, jnp.zeros_like(dz) if drawn is None else dz * drawn / 2], -1), {}

    @classmethod
    def cases(cls) -> list[Case]:
        reason = "a variance of e^10000 is infinite"
        return [Case(Gaussian(), shaped(5, 3, 4), excused=(("finite", reason), ("hard points", reason)))]
