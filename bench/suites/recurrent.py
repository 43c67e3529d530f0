"""Suite recurrent: forward and backward of whole sequences, and a training epoch of the network of configs/charlm.py.

By hand against jax.grad of the same scan; Flax and PyTorch beside them. The epoch is of 200,000 characters, without
dropout, by plain gradient descent; ours and autodiff's inside the training loop's program.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.race import Race, Run, compiled
from bench.training_race import looped, race
from jaxbp import Context, Embedding, GRUCell, Layer, LSTMCell, Recurrent, SimpleCell, shaped, value_and_grad
from jaxbp.check import autodiff
from jaxbp.core import PyTree
from jaxbp.data import Dataset, Text
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.machine import threads
from jaxbp.models import RNN
from jaxbp.training.step import Feed, initial_state, make_step

SHAPES = [(64, 32, 64, 128), (128, 32, 128, 256), (256, 8, 64, 256), (1000, 1, 32, 64)]  # T, N, D, H
CELLS = {"simple": SimpleCell, "lstm": LSTMCell, "gru": GRUCell, "gru before": partial(GRUCell, reset="before")}
TORCH = {"simple": "RNN", "lstm": "LSTM", "gru": "GRU"}
FLAX = {"simple": "SimpleCell", "lstm": "OptimizedLSTMCell", "gru": "GRUCell"}
TEXT, RATE = Text(size=200_000, length=128, streams=32), 0.1
CHARLM, LOSS = RNN(outputs=97, hidden=(256,), embedding=64, carry=True).build(), SoftmaxCrossEntropy()


def cases() -> Iterator[Race]:
    for name in CELLS:
        for shape in SHAPES:
            yield sequence(name, *shape)
    yield embedding(1000, 64, 4096)
    yield epoch()


def sequence(name: str, time: int, rows: int, inputs: int, features: int) -> Race:
    """Loss, gradient and dx of random sequences."""
    layer = Recurrent(CELLS[name](features))
    keys = jax.random.split(jax.random.key(0), 3)
    params = layer.init(keys[0], shaped(rows, time, inputs))
    x = jax.random.normal(keys[1], (rows, time, inputs))
    dy = jax.random.normal(keys[2], (rows, time, features))
    peers: dict[str, Callable[[], Run]] = {}
    if name in TORCH:
        peers["torch"] = lambda: torch_sequence(TORCH[name], np.asarray(x), np.asarray(dy))
        peers["flax"] = lambda: flax_sequence(FLAX[name], x, dy)
    case = f"{name} T{time} N{rows} D{inputs} H{features}"
    repeats = max(6, 40_000 // (time * rows))
    return compiled(case, both(layer, params, x, dy), installed_peers(peers), repeats, peer_repeats=10)


def installed_peers(peers: dict[str, Callable[[], Run]]) -> dict[str, Run]:
    """name -> what is timed, for the peers whose library is installed; peers: name -> function that makes it."""
    installed = {}
    for name, make in peers.items():
        try:
            installed[name] = make()
        except ModuleNotFoundError:
            warnings.warn(f"{name} is not installed: that peer is left out", stacklevel=1)
    return installed


def embedding(vocabulary: int, features: int, count: int) -> Race:
    """The table's gradient for ids that repeat about four times."""
    keys = jax.random.split(jax.random.key(0), 3)
    layer, ids = Embedding(vocabulary, features), jax.random.randint(keys[1], (count, 1), 0, vocabulary)
    params = layer.init(keys[0], ids)
    forms = both(layer, params, ids, jax.random.normal(keys[2], (count, 1, features)))
    return compiled(f"embedding V{vocabulary} D{features} of {count} ids", forms, repeats=200)


def both(layer: Layer, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, tuple[Callable, tuple]]:
    """By hand and by autodiff: value, parameter gradient and, of float inputs, dx of sum(y^2 dy) / 2."""
    arguments = (0, 1) if jnp.issubdtype(x.dtype, jnp.floating) else 0

    def by_hand(params: PyTree, x: jax.Array, dy: jax.Array) -> tuple:
        y, cache = layer.forward(params, x, Context())
        return jnp.vdot(y * y, dy) / 2, layer.backward(params, cache, dy * y)

    def by_autodiff(params: PyTree, x: jax.Array, dy: jax.Array) -> tuple:
        value = lambda params, x: jnp.vdot(layer.forward(params, x, Context())[0] ** 2, dy) / 2
        return jax.value_and_grad(value, arguments)(params, x)

    return {"hand": (by_hand, (params, x, dy)), "autodiff": (by_autodiff, (params, x, dy))}


def torch_sequence(kind: str, x: np.ndarray, dy: np.ndarray) -> Run:
    import torch

    torch.set_num_threads(threads())
    net = getattr(torch.nn, kind)(x.shape[-1], dy.shape[-1], batch_first=True)
    inputs = torch.from_numpy(x.copy()).requires_grad_()
    weights = torch.from_numpy(dy.copy())

    def run() -> None:
        net.zero_grad()
        inputs.grad = None
        (torch.sum(net(inputs)[0] ** 2 * weights) / 2).backward()

    return run


def flax_sequence(kind: str, x: jax.Array, dy: jax.Array) -> Run:
    from flax import linen as nn

    net = nn.RNN(getattr(nn, kind)(dy.shape[-1]))
    value = lambda params, x: jnp.vdot(net.apply(params, x) ** 2, dy) / 2
    params = net.init(jax.random.key(0), x)
    program = jax.jit(jax.value_and_grad(value, (0, 1))).lower(params, x).compile()
    return lambda: jax.block_until_ready(program(params, x))


def epoch() -> Race:
    """Successive rows of text, the state carried from batch to batch."""
    data, rows = TEXT.load().train, TEXT.streams
    steps = len(data) // rows
    optimizer = optax.sgd(RATE)
    spec = jax.ShapeDtypeStruct((rows, TEXT.length), jnp.int32)
    state = initial_state(CHARLM, optimizer, spec, 0)
    order = jnp.arange(steps * rows, dtype=jnp.int32).reshape(steps, rows)
    feed = Feed(jnp.asarray(data.x), jnp.asarray(data.y), order, jnp.ones(order.shape), jnp.asarray(data.counting()))
    timed = {
        name: looped(make_step(gradient(CHARLM, LOSS), optimizer), state, feed, steps)
        for name, gradient in (("hand", value_and_grad), ("autodiff", autodiff))
    }
    peers = installed_peers({"torch": lambda: torch_epoch(data, steps)})
    return race(f"charlm epoch of {steps} steps", timed, peers, repeats=1)


def torch_epoch(data: Dataset, steps: int) -> Run:
    import torch

    torch.set_num_threads(threads())
    nn = torch.nn
    embedding, lstm, last = nn.Embedding(97, 64), nn.LSTM(64, 256, batch_first=True), nn.Linear(256, 97)
    parameters = [p for part in (embedding, lstm, last) for p in part.parameters()]
    optimizer, loss = torch.optim.SGD(parameters, RATE, fused=True), nn.CrossEntropyLoss()
    x, y = (torch.from_numpy(a).long().reshape(steps, -1, a.shape[1]) for a in (data.x, data.y))

    def run() -> None:
        carried = None
        for ids, targets in zip(x, y, strict=True):
            optimizer.zero_grad()
            outputs, carried = lstm(embedding(ids), carried)
            carried = tuple(part.detach() for part in carried)
            loss(last(outputs).flatten(0, 1), targets.flatten()).backward()
            optimizer.step()

    return run
