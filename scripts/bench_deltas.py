"""Suite deltas: squared norms of every example's gradient, clipped gradients and Hessian-vector products.

Autodiff is jax.vmap(jax.grad) of one example's loss, reduced in the same program, or jax.jvp of jax.grad; the peer is
our own plain gradient, what a user would pay without them. Temporary bytes of both forms.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from race import Race

from jaxbp import Chain, Context, Dense, Layer, LSTMCell, Recurrent, value_and_grad
from jaxbp.analysis import per_example, products
from jaxbp.check import autodiff
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN, MLP

LOSS = SoftmaxCrossEntropy()
NETS = {  # name: (model, input shape)
    "784-512-512-10": (MLP(outputs=10, hidden=(512, 512)).build(), (128, 784)),
    "mnist_cnn": (CNN(outputs=10, hidden=(256,)).build(), (64, 28, 28, 1)),
    "LSTM T64 N32 D64 H128": (Chain((Recurrent(LSTMCell(128), output="last"), Dense(10))), (32, 64, 64)),
}


def cases() -> Iterator[Race]:
    for name, (model, shape) in NETS.items():
        spec = jax.ShapeDtypeStruct(shape, jnp.float32)
        params, x = model.init(jax.random.key(0), spec), jax.random.normal(jax.random.key(1), shape)
        batch = {"x": x, "y": jnp.arange(len(x), dtype=jnp.int32) % 10, "weight": jnp.ones(len(x))}
        plain = value_and_grad(model, LOSS)
        yield race(f"norms, {name}", (per_example.squared_norms(model, LOSS), squares(model)), plain, params, batch)
        clip = lambda sweeps, model=model: per_example.clipped_gradient(model, LOSS, 1.0, "sum", sweeps)
        for sweeps in ("two", "one"):
            yield race(f"clipped, {sweeps}, {name}", (clip(sweeps), clipped(model)), plain, params, batch)
        hand, auto = (lambda params, batch, g=g: products.hessian(g)(params, batch, params)
                      for g in (plain, autodiff(model, LOSS)))
        yield race(f"Hessian-vector, {name}", (hand, auto), plain, params, batch)


def each(model: Layer) -> Callable:
    """Every example's gradient."""

    def alone(params: dict, row: dict) -> jax.Array:
        one = jax.tree.map(lambda a: a[None], row)
        return LOSS.forward(model.forward(params, one["x"], Context())[0], one["y"], one["weight"])[0]

    return jax.vmap(jax.grad(alone), (None, 0))


def squares(model: Layer) -> Callable:
    return lambda params, batch: jax.tree.map(lambda g: jnp.sum(g * g, range(1, g.ndim)), each(model)(params, batch))


def clipped(model: Layer) -> Callable:
    """The sum of gradients cut to a norm of one."""

    def run(params: dict, batch: dict) -> dict:
        grads = each(model)(params, batch)
        norms = jnp.sqrt(sum(jnp.sum(g * g, range(1, g.ndim)) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda g: jnp.tensordot(jnp.minimum(1, 1 / norms), g, 1), grads)

    return run


def race(name: str, forms: tuple[Callable, Callable], plain: Callable, params: dict, batch: dict) -> Race:
    """Compiled: by hand, by autodiff, and the plain gradient beside them."""
    programs = [jax.jit(f).lower(params, batch).compile() for f in (*forms, plain)]
    hand, auto, plain = (lambda program=program: jax.block_until_ready(program(params, batch)) for program in programs)
    bytes_ = [program.memory_analysis().temp_size_in_bytes for program in programs]
    return Race(name, hand, auto, (bytes_[0], bytes_[1]),
                {f"plain gradient ({bytes_[2]:,} bytes)": plain}, repeats=5, peer_repeats=5)
