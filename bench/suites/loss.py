"""Suite loss: linear layer, softmax and cross-entropy over chunks of rows, against autodiff with optax's loss.

2048 rows of width 512 and 32768 classes: value with all gradients, and the value alone, as in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

from bench.race import Race, compiled
from jaxbp.ops.chunked_cross_entropy import linear_cross_entropy

ROWS, WIDTH, CLASSES = 2048, 512, 32768


def cases() -> Iterator[Race]:
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (ROWS, WIDTH))
    w = jax.random.normal(keys[1], (CLASSES, WIDTH)) * WIDTH**-0.5
    target = jax.random.randint(keys[2], (ROWS,), 0, CLASSES)
    forms = {"hand": linear_cross_entropy, "autodiff": stored}
    size = f"{ROWS}x{WIDTH}x{CLASSES}"
    gradients = {name: (jax.value_and_grad(f, (0, 1)), (x, w, target)) for name, f in forms.items()}
    yield compiled(f"{size} gradient", gradients, repeats=3)
    yield compiled(f"{size} value", {name: (f, (x, w, target)) for name, f in forms.items()}, repeats=3)


def stored(x: jax.Array, w: jax.Array, target: jax.Array) -> jax.Array:
    """The mean loss from the logits of all rows."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ w.T, target))
