"""Suite cost: what a gradient costs beside a forward pass, and beside the ways that do without backpropagation.

Every case is the gradient by hand against jax.grad. A peer's ratio is its time over that of the gradient by hand. The
peers are one forward pass ("forward": above 1/4 where the gradient costs less than four), n + 1 forward passes for n
weights ("differences", in a compiled loop), and the gradient of one example after the other ("examples"). The square
roots are of 64 matrices of 64 x 64, by eigenvalues, against jax.grad through jnp.linalg.eigh.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from bench.costs import by_moving
from bench.race import Race, compiled
from jaxbp import ops, value_and_grad
from jaxbp.check import autodiff
from jaxbp.core import Batch, Layer, PyTree
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import MLP

NETS = {  # name: (model, inputs, rows)
    "10-4-3": (MLP(outputs=3, hidden=(4,)), 10, 16),
    "784-30-10, 8 rows": (MLP(outputs=10, hidden=(30,), activation="sigmoid"), 784, 8),
    "784-30-10, 256 rows": (MLP(outputs=10, hidden=(30,), activation="sigmoid"), 784, 256),
    "784-1024x3-10": (MLP(outputs=10, hidden=(1024,) * 3), 784, 128),
    "64 x 20 layers": (MLP(outputs=10, hidden=(64,) * 20), 64, 64),
}
MOST_DIFFERENCES = 1_000_000  # weights times rows: each weight costs a forward pass of all rows


def cases() -> Iterator[Race]:
    for name, (config, inputs, rows) in NETS.items():
        yield gradient(name, config.build(), inputs, rows)
    yield square_roots()


def gradient(name: str, model: Layer, inputs: int, rows: int) -> Race:
    """A gradient, beside other ways to it."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (rows, inputs))
    batch = {"x": x, "y": jax.random.randint(keys[1], (rows,), 0, 3)}
    params = model.init(keys[2], x)
    loss = SoftmaxCrossEntropy()
    hand = value_and_grad(model, loss)
    value = lambda params, batch: hand(params, batch).value

    def by_examples(params: PyTree, batch: Batch) -> PyTree:
        one = lambda row: hand(params, jax.tree.map(lambda a: a[None], row)).grads
        add = lambda total, row: (jax.tree.map(jnp.add, total, one(row)), None)
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batch)[0]

    forms = {"hand": hand, "autodiff": autodiff(model, loss), "forward": value, "examples": by_examples}
    if rows * sum(p.size for p in jax.tree.leaves(params)) <= MOST_DIFFERENCES:
        forms["differences"] = by_moving(hand)
    return compiled(name, {form: (f, (params, batch)) for form, f in forms.items()}, peer_repeats=5)


def square_roots() -> Race:
    """Value and gradient; the peer is the form in products of matrices alone."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (64, 64, 128))
    a = x @ jnp.swapaxes(x, 1, 2) / 128 + 0.1 * jnp.eye(64)

    def by_eigh(a: jax.Array) -> jax.Array:
        w, v = jnp.linalg.eigh(a)
        return (v * jnp.sqrt(w)[:, None]) @ jnp.swapaxes(v, 1, 2)

    def pulled(f):
        def run(a: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
            y, back = jax.vjp(f, a)
            return y, back(dy)[0]

        return run

    roots = {"hand": ops.sqrtm_psd, "autodiff": by_eigh, "products": lambda a: ops.sqrtm_psd(a, "products")}
    arguments = a, jax.random.normal(keys[1], a.shape)
    return compiled(
        "square roots of 64 x 64", {form: (pulled(f), arguments) for form, f in roots.items()}, peer_repeats=10
    )
