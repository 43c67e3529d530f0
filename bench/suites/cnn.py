"""Suite cnn: training steps of the network of configs/mnist_cnn.py, a jit call each and inside the loop; an epoch.

Autodiff is jax.value_and_grad of the forward that a user writes, lax.conv_general_dilated and lax.reduce_window on
weights [H, W, I, O]. Peers: autodiff of our own forward, Flax, PyTorch; no dropout and no augmentation anywhere, plain
gradient descent, the same batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bench.race import Race, Run
from bench.training_race import looped, race, stepwise
from jaxbp import Context, value_and_grad
from jaxbp.backprop import Result
from jaxbp.check import autodiff
from jaxbp.data import epoch_order
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.machine import threads
from jaxbp.models import CNN
from jaxbp.training.step import Feed, State, initial_state, make_step

EXAMPLES, RATE, STEPS = 12_800, 0.01, 2
MODEL, LOSS = CNN(outputs=10, hidden=(256,)).build(), SoftmaxCrossEntropy()
SPEC = lambda rows: jax.ShapeDtypeStruct((rows, 28, 28, 1), jnp.float32)


def cases() -> Iterator[Race]:
    for rows in (64, 128):
        yield one_step(rows)
        yield loop(rows)
    yield epoch(128)


def data(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels of MNIST's size."""
    random = np.random.default_rng(0)
    return random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count).astype(np.int32)


# --- the same network by others --------------------------------------------------------------------------------------


def plain(params: dict, x: jax.Array) -> jax.Array:
    """The network as a user writes it."""
    for layer in ("first", "second"):
        w, b = params[layer]
        x = lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
        x = lax.reduce_window(jax.nn.relu(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    for layer in ("hidden", "last"):
        w, b = params[layer]
        x = x.reshape(len(x), -1) @ w + b
        x = jax.nn.relu(x) if layer == "hidden" else x
    return x


def plain_params() -> dict:
    """He's initial weights."""
    shapes = {"first": (5, 5, 1, 32), "second": (5, 5, 32, 64), "hidden": (1024, 256), "last": (256, 10)}
    make = jax.nn.initializers.he_normal()
    return {name: (make(jax.random.key(0), shape), jnp.zeros(shape[-1])) for name, shape in shapes.items()}


def by_grad(forward: Callable) -> Callable[..., Result]:
    """jax.value_and_grad of a forward with softmax cross-entropy, in the form of our own."""

    def value(params: dict, batch: dict) -> jax.Array:
        items = optax.softmax_cross_entropy_with_integer_labels(forward(params, batch["x"]), batch["y"])
        return jnp.sum(items * batch["weight"])

    def run(params: dict, batch: dict, ctx: Context) -> Result:
        return Result(*jax.value_and_grad(value)(params, batch), ctx.state, None)

    return run


def flax_network() -> tuple[Callable, dict]:
    """Its forward (params, x) and its params."""
    from flax import linen as nn

    net = nn.Sequential(
        [
            nn.Conv(32, (5, 5), padding="VALID"),
            nn.relu,
            lambda x: nn.max_pool(x, (2, 2), (2, 2)),
            nn.Conv(64, (5, 5), padding="VALID"),
            nn.relu,
            lambda x: nn.max_pool(x, (2, 2), (2, 2)),
            lambda x: x.reshape(len(x), -1),
            nn.Dense(256),
            nn.relu,
            nn.Dense(10),
        ]
    )
    return net.apply, net.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


def torch_steps(rows: int) -> Callable[[int], None]:
    """Runs a number of training steps. NCHW: channels_last took as long here."""
    import torch

    torch.set_num_threads(threads())
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    optimizer, loss = torch.optim.SGD(net.parameters(), RATE, fused=True), nn.CrossEntropyLoss()
    x, y = data(rows)
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(y).long()

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            loss(net(images), labels).backward()
            optimizer.step()

    return run


# --- races -----------------------------------------------------------------------------------------------------------


def networks(rows: int) -> dict[str, tuple[Callable, State]]:
    """name: (training step, state)."""
    optimizer = optax.sgd(RATE)
    ours = initial_state(MODEL, optimizer, SPEC(rows), 0)
    theirs = lambda params: replace(ours, params=params, optimizer=optimizer.init(params), model={})
    gradients = {
        "hand": (value_and_grad(MODEL, LOSS), ours),
        "autodiff": (by_grad(plain), theirs(plain_params())),
        "jax.grad of our forward": (autodiff(MODEL, LOSS), ours),
    }
    try:
        forward, params = flax_network()
        gradients["flax"] = by_grad(forward), theirs(params)
    except ModuleNotFoundError:
        warnings.warn("flax is not installed: that peer is left out", stacklevel=1)
    return {name: (make_step(gradient, optimizer), state) for name, (gradient, state) in gradients.items()}


def torch_peer(rows: int, count: int) -> dict[str, Run]:
    try:
        return {"torch": partial(torch_steps(rows), count)}
    except ModuleNotFoundError:
        warnings.warn("torch is not installed: that peer is left out", stacklevel=1)
        return {}


def one_step(rows: int) -> Race:
    """A jit call for every step, the state donated."""
    x, y = data(rows)
    batch = {"x": jnp.asarray(x), "y": jnp.asarray(y), "mask": jnp.ones(rows)}
    timed = {name: stepwise(*network, batch) for name, network in networks(rows).items()}
    return race(f"mnist_cnn step, batch {rows}", timed, torch_peer(rows, 1), repeats=20, peer_repeats=10)


def loop(rows: int) -> Race:
    """The training loop's compiled program: many steps a call."""
    order, mask = (jnp.asarray(a) for a in epoch_order(0, 0, STEPS * rows, rows))
    x, y = (jnp.asarray(a) for a in data(STEPS * rows))
    steps = networks(rows)
    timed = {name: looped(*steps[name], Feed(x, y, order, mask), STEPS) for name in ("hand", "autodiff")}
    return race(f"mnist_cnn loop of {STEPS}, batch {rows}", timed, {}, repeats=3)


def epoch(rows: int) -> Race:
    """12,800 images: ours inside the loop, the others with a call each step, which is their best form."""
    order, mask = (jnp.asarray(a) for a in epoch_order(0, 0, EXAMPLES, rows))
    x, y = (jnp.asarray(a) for a in data(EXAMPLES))
    feed = Feed(x, y, order, mask)
    steps = networks(rows)
    timed = {
        "hand": looped(*steps["hand"], feed, len(order)),
        "autodiff": stepwise(*steps["autodiff"], feed.batch(jnp.int32(0)), len(order)),
    }
    return race(f"mnist_cnn epoch of {EXAMPLES:,}, batch {rows}", timed, torch_peer(rows, len(order)), repeats=1)
