"""Functions of optax that bring their own derivative."""

from __future__ import annotations

import jax
import numpy as np

from .table import between, normal, peer

LOGSOFTMAX = "optax.losses._classification"
SOME_ZERO = np.where(np.arange(5) == 2, 0, between(0.1, 1, 3, 5))

peer(
    "optax",
    "scale_gradient",
    lambda optax: lambda x: optax.scale_gradient(x, 0.3),
    normal(5),
    departs={"x": "0.3"},
    suite="fast",
)
peer("optax", "projection_simplex", lambda optax: lambda x: optax.projections.projection_simplex(x), normal(5))
peer(
    LOGSOFTMAX,
    "weighted_logsoftmax",
    lambda module: lambda x, weights: module.weighted_logsoftmax(x, weights),
    normal(3, 5),
    between(0.1, 1, 3, 5),
)
# Where a weight is 0, autodiff of the forward's `where` gives 0 for its derivative.
peer(
    LOGSOFTMAX,
    "weighted_logsoftmax_zero",
    lambda module: lambda x, weights: module.weighted_logsoftmax(x, weights),
    normal(3, 5),
    SOME_ZERO,
    reference=lambda x, weights: weights * jax.nn.log_softmax(x),
    suite="slow",
)
