"""Suite deltas: squared norms of every example's gradient, clipped gradients, Hessian-vector products, noise scale.

Autodiff is jax.vmap(jax.grad) of one example's loss, or jax.jvp of jax.grad, of our own forward. Peers: the same
reduced to norms in one program (XLA then need not keep the gradients); our own plain gradient, what a user pays without
them; for the LSTM also vmap(jax.grad) of the loop as textbooks have it. Temporary bytes, to which what autodiff
returns, every example's gradient, must be added: 343 MB for 784-512-512-10.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax

from bench.race import Race, compiled
from jaxbp import Chain, Context, Dense, Layer, LSTMCell, Recurrent, value_and_grad
from jaxbp.analysis import per_example, products
from jaxbp.check import autodiff
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN, MLP
from jaxbp.optim import AdamW, Objective, noise_meter
from jaxbp.train.step import initial_state, make_step

LOSS = SoftmaxCrossEntropy()
LSTM = Chain((Recurrent(LSTMCell(128), output="last"), Dense(10)))
NETS = {  # name: (model, input shape)
    "784-512-512-10": (MLP(outputs=10, hidden=(512, 512)).build(), (128, 784)),
    "mnist_cnn": (CNN(outputs=10, hidden=(256,)).build(), (64, 28, 28, 1)),
    "LSTM T64 N32 D64 H128": (LSTM, (32, 64, 64)),
}
EVERY = 50  # steps between measurements of the noise scale


def cases() -> Iterator[Race]:
    for name, (model, shape) in NETS.items():
        given = arguments(model, shape)
        forward = lambda params, x, model=model: model.forward(params, x, Context())[0]
        plain = value_and_grad(model, LOSS)
        peers = {"norms in one program": (squares(forward), given), "plain gradient": (plain, given)}
        if model is LSTM:
            peers |= {"textbook loop": (each(textbook), given)}
        norms = per_example.squared_norms(model, LOSS)
        yield compiled(
            f"norms, {name}",
            {"hand": (norms, given), "autodiff": (each(forward), given)} | peers,
            repeats=10,
            peer_repeats=10,
        )
        peers = {"plain gradient": (plain, given)}
        for sweeps in ("two", "one"):
            clip = per_example.clipped_gradient(model, LOSS, 1.0, "sum", sweeps)
            yield compiled(
                f"clipped, {sweeps}, {name}",
                {"hand": (clip, given), "autodiff": (clipped(forward), given)} | peers,
                repeats=5,
                peer_repeats=5,
            )
        hand, auto = (products.hessian(gradient) for gradient in (plain, autodiff(model, LOSS)))
        given = (*given, given[0])
        yield compiled(
            f"Hessian-vector, {name}",
            {"hand": (hand, given), "autodiff": (auto, given)}
            | {"plain gradient": (lambda params, batch, v, plain=plain: plain(params, batch), given)},
            repeats=10,
            peer_repeats=10,
        )
    yield noise_scale()


def arguments(model: Layer, shape: tuple[int, ...]) -> tuple[dict, dict]:
    """Parameters, and a batch of weights one."""
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    x, classes = jax.random.normal(jax.random.key(1), shape), jnp.arange(shape[0], dtype=jnp.int32) % 10
    return params, {"x": x, "y": classes, "weight": jnp.ones(shape[0])}


def each(forward: Callable) -> Callable:
    """Every example's gradient."""

    def alone(params: dict, row: dict) -> jax.Array:
        one = jax.tree.map(lambda a: a[None], row)
        return LOSS.forward(forward(params, one["x"]), one["y"], one["weight"])[0]

    return jax.vmap(jax.grad(alone), (None, 0))


def squares(forward: Callable) -> Callable:
    return lambda params, batch: jax.tree.map(lambda g: jnp.sum(g * g, range(1, g.ndim)), each(forward)(params, batch))


def clipped(forward: Callable) -> Callable:
    """The sum of gradients cut to a norm of one."""

    def run(params: dict, batch: dict) -> dict:
        grads = each(forward)(params, batch)
        norms = jnp.sqrt(sum(jnp.sum(g * g, range(1, g.ndim)) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda g: jnp.tensordot(jnp.minimum(1, 1 / norms), g, 1), grads)

    return run


def textbook(params: dict, x: jax.Array) -> jax.Array:
    """The LSTM with all of a step inside the loop."""
    (_, cell), (_, dense) = sorted(params.items())

    def step(state: tuple, x: jax.Array) -> tuple:
        h, c = state
        i, f, g, o = jnp.split(x @ cell["wx"].T + h @ cell["wh"].T + cell["b"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zeros = jnp.zeros((len(x), 128))
    h = jax.lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1))[0][0]
    return h @ dense["w"].T + dense["b"]


def noise_scale() -> Race:
    """EVERY steps of mnist_mlp's net with AdamW, the noise scale measured once: plain steps / these."""
    model, shape = NETS["784-512-512-10"]
    batch = arguments(model, shape)[1]
    batch = {"x": batch["x"], "y": batch["y"], "mask": batch["weight"]}
    spec, adam = jax.ShapeDtypeStruct(shape, jnp.float32), AdamW().build(1)
    optimizers = {"hand": optax.chain(noise_meter(Objective(model, LOSS, (), spec), EVERY), adam), "autodiff": adam}

    def steps(optimizer: optax.GradientTransformation) -> tuple[Callable, tuple]:
        step = make_step(value_and_grad(model, LOSS), optimizer)
        run = lambda state, batch: jax.lax.fori_loop(0, EVERY, lambda i, state: step(state, batch), state)
        return run, (initial_state(model, optimizer, spec, 0), batch)

    return compiled(f"{EVERY} steps with noise scale / without", {name: steps(o) for name, o in optimizers.items()})
