"""Suite deltas: squared norms of every example's gradient, clipped gradients, Hessian-vector products, noise scale.

Autodiff is jax.vmap(jax.grad) of one example's loss, or jax.jvp of jax.grad, of our own forward. Peers: the same
reduced to norms in one program (XLA then need not keep the gradients); our own plain gradient, the price without them;
for the LSTM also vmap(jax.grad) of the textbook loop. The temporary bytes of autodiff are without its output, every
example's gradient: another 343 MB for 784-512-512-10.
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
from jaxbp.core import Batch, PyTree
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN, MLP
from jaxbp.optim import AdamW, Objective, noise_meter
from jaxbp.training.step import initial_state, make_step

LOSS = SoftmaxCrossEntropy()
LSTM = Chain((Recurrent(LSTMCell(128), output="last"), Dense(10)))
NETS = {  # name: (model, input shape)
    "784-512-512-10": (MLP(outputs=10, hidden=(512, 512)).build(), (128, 784)),
    "mnist_cnn": (CNN(outputs=10, hidden=(256,)).build(), (64, 28, 28, 1)),
    "LSTM T64 N32 D64 H128": (LSTM, (32, 64, 64)),
}
EVERY = 50  # steps between measurements of the noise scale


def cases() -> Iterator[Race]:
    for name in NETS:
        yield norms(name)
        yield clipping(name, "recomputed")
        yield clipping(name, "kept")
        yield hessian(name)
    yield noise_scale()


def arguments(name: str) -> tuple[PyTree, Batch]:
    """Parameters of a net, and a batch with weights of one."""
    model, shape = NETS[name]
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    x, classes = jax.random.normal(jax.random.key(1), shape), jnp.arange(shape[0], dtype=jnp.int32) % 10
    return params, {"x": x, "y": classes, "weight": jnp.ones(shape[0])}


def plain_forward(model: Layer) -> Callable[[PyTree, jax.Array], jax.Array]:
    """(params, x) -> y."""
    return lambda params, x: model.forward(params, x, Context())[0]


def norms(name: str) -> Race:
    """Squared norms of every example's gradient."""
    model, _ = NETS[name]
    forward = plain_forward(model)
    functions = {
        "hand": per_example.squared_norms(model, LOSS),
        "autodiff": example_gradients(forward),
        "norms in one program": squared_norms(forward),
        "plain gradient": value_and_grad(model, LOSS),
    }
    if model is LSTM:
        functions["textbook loop"] = example_gradients(textbook)
    forms = {form: (function, arguments(name)) for form, function in functions.items()}
    return compiled(f"norms, {name}", forms, repeats=10, peer_repeats=10)


def clipping(name: str, memory: per_example.Memory) -> Race:
    """The sum of gradients cut to a norm of one."""
    model, _ = NETS[name]
    functions = {
        "hand": per_example.clipped_gradient(model, LOSS, 1.0, "sum", memory),
        "autodiff": clipped(plain_forward(model)),
        "plain gradient": value_and_grad(model, LOSS),
    }
    forms = {form: (function, arguments(name)) for form, function in functions.items()}
    return compiled(f"clipped, {memory}, {name}", forms, repeats=5, peer_repeats=5)


def hessian(name: str) -> Race:
    """A product of the Hessian with a vector."""
    model, _ = NETS[name]
    plain = value_and_grad(model, LOSS)
    params, batch = arguments(name)
    forms = {
        "hand": (products.hessian(plain), (params, batch, params)),
        "autodiff": (products.hessian(autodiff(model, LOSS)), (params, batch, params)),
        "plain gradient": (plain, (params, batch)),
    }
    return compiled(f"Hessian-vector, {name}", forms, repeats=10, peer_repeats=10)


def example_gradients(forward: Callable) -> Callable[[PyTree, Batch], PyTree]:
    """Every example's gradient, by jax.vmap(jax.grad)."""

    def loss(params: PyTree, example: Batch) -> jax.Array:
        batch = jax.tree.map(lambda a: a[None], example)
        return LOSS.forward(forward(params, batch["x"]), batch["y"], batch["weight"])[0]

    return jax.vmap(jax.grad(loss), (None, 0))


def squared_norms(forward: Callable) -> Callable[[PyTree, Batch], PyTree]:
    """Like params, [N] each."""
    squared = lambda g: jnp.sum(g * g, range(1, g.ndim))
    return lambda params, batch: jax.tree.map(squared, example_gradients(forward)(params, batch))


def clipped(forward: Callable) -> Callable[[PyTree, Batch], PyTree]:
    """The sum of gradients cut to a norm of one."""

    def run(params: PyTree, batch: Batch) -> PyTree:
        grads = example_gradients(forward)(params, batch)
        norms = jnp.sqrt(sum(jnp.sum(g * g, range(1, g.ndim)) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda g: jnp.tensordot(jnp.minimum(1, 1 / norms), g, 1), grads)

    return run


def textbook(params: dict, x: jax.Array) -> jax.Array:
    """The LSTM with all of a step inside the loop, as textbooks write it."""
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
    name = "784-512-512-10"
    model, shape = NETS[name]
    batch = arguments(name)[1]
    batch = {"x": batch["x"], "y": batch["y"], "mask": batch["weight"]}
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    adam = AdamW().build(1)
    optimizers = {"hand": optax.chain(noise_meter(Objective(model, LOSS, (), spec), EVERY), adam), "autodiff": adam}

    def steps(optimizer: optax.GradientTransformation) -> tuple[Callable, tuple]:
        step = make_step(value_and_grad(model, LOSS), optimizer)
        run = lambda state, batch: jax.lax.fori_loop(0, EVERY, lambda i, state: step(state, batch), state)
        return run, (initial_state(model, optimizer, spec, 0), batch)

    forms = {form: steps(optimizer) for form, optimizer in optimizers.items()}
    return compiled(f"{EVERY} steps with noise scale / without", forms)
