"""Suite recurrent: forward and backward of a whole sequence, by hand against jax.grad of the same scan; PyTorch."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from race import Race

from jaxbp import Context, Embedding, GRUCell, LSTMCell, Recurrent, SimpleCell, shaped
from jaxbp.train.provenance import threads

SHAPES = [(64, 32, 64, 128), (128, 32, 128, 256), (256, 8, 64, 256), (1000, 1, 32, 64)]  # T, N, D, H
CELLS = {"simple": SimpleCell, "lstm": LSTMCell, "gru": GRUCell, "gru before": partial(GRUCell, reset="before")}
TORCH = {"simple": "RNN", "lstm": "LSTM", "gru": "GRU"}


def cases() -> Iterator[Race]:
    for name in CELLS:
        for shape in SHAPES:
            yield sequence(name, *shape)
    yield embedding(1000, 64, 4096)


def sequence(name: str, time: int, rows: int, inputs: int, features: int) -> Race:
    """Loss, gradient and dx of random sequences."""
    layer = Recurrent(CELLS[name](features))
    keys = jax.random.split(jax.random.key(0), 3)
    params = layer.init(keys[0], shaped(rows, time, inputs))
    x = jax.random.normal(keys[1], (rows, time, inputs))
    dy = jax.random.normal(keys[2], (rows, time, features))
    race = against(layer, params, x, dy)
    peers = {}
    if name in TORCH:
        try:
            peers = {"torch": torch_sequence(TORCH[name], np.asarray(x), np.asarray(dy))}
        except ModuleNotFoundError:
            warnings.warn("torch is not installed: that peer is left out", stacklevel=1)
    label = f"{name} T{time} N{rows} D{inputs} H{features}"
    return Race(label, *race, peers, repeats=max(3, 1_500 // time), peer_repeats=10)


def embedding(vocabulary: int, features: int, count: int) -> Race:
    """The table's gradient for ids that repeat about four times."""
    keys = jax.random.split(jax.random.key(0), 3)
    layer, ids = Embedding(vocabulary, features), jax.random.randint(keys[1], (count, 1), 0, vocabulary)
    params = layer.init(keys[0], ids)
    race = against(layer, params, ids, jax.random.normal(keys[2], (count, 1, features)))
    return Race(f"embedding V{vocabulary} D{features} of {count} ids", *race, repeats=200)


def against(layer: object, params: object, x: jax.Array, dy: jax.Array) -> tuple[Callable, Callable, tuple[int, int]]:
    """(hand, autodiff, temporary bytes) of value, parameter gradient and, of float inputs, dx of sum(y^2 dy) / 2."""
    arguments = (0, 1) if jnp.issubdtype(x.dtype, jnp.floating) else 0

    def by_hand(params: object, x: jax.Array, dy: jax.Array) -> tuple:
        y, cache = layer.forward(params, x, Context())
        return jnp.vdot(y * y, dy) / 2, layer.backward(params, cache, dy * y)

    def by_autodiff(params: object, x: jax.Array, dy: jax.Array) -> tuple:
        value = lambda params, x: jnp.vdot(layer.forward(params, x, Context())[0] ** 2, dy) / 2
        return jax.value_and_grad(value, arguments)(params, x)

    compiled = [jax.jit(f).lower(params, x, dy).compile() for f in (by_hand, by_autodiff)]
    hand, autodiff = (lambda program=program: jax.block_until_ready(program(params, x, dy)) for program in compiled)
    return hand, autodiff, tuple(program.memory_analysis().temp_size_in_bytes for program in compiled)


def torch_sequence(kind: str, x: np.ndarray, dy: np.ndarray) -> Callable[[], None]:
    import torch

    torch.set_num_threads(threads())
    net = getattr(torch.nn, kind)(x.shape[-1], dy.shape[-1], batch_first=True)
    x, dy = torch.from_numpy(x.copy()).requires_grad_(), torch.from_numpy(dy.copy())

    def run() -> None:
        net.zero_grad()
        x.grad = None
        (torch.sum(net(x)[0] ** 2 * dy) / 2).backward()

    return run
