"""Sanger's Hebbian rule, which needs no backward pass. `jaxbp.optim.one_layer` has the perceptron and the delta rule.

y = W x,  dw = y x^T - lower(y y^T) W          rows of W -> leading eigenvectors, in order (Sanger 1989)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sanger(w: jax.Array, x: jax.Array) -> jax.Array:
    """The change of W [K, I] for inputs x [N, I] of mean zero, averaged over them; to be multiplied by a rate.

    lower(.) keeps the diagonal and what lies below it: output k unlearns what the outputs before it say already.
    """
    y = jnp.einsum("ki,ni->nk", w, x)
    hebbian = jnp.einsum("nk,ni->ki", y, x)
    return (hebbian - jnp.tril(jnp.einsum("nk,nl->kl", y, y)) @ w) / len(x)
