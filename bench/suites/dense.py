"""Suite dense: whole training steps of dense networks, as a jit call each and inside the training loop; one epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.race import Race
from jaxbp import value_and_grad
from jaxbp.check import autodiff
from jaxbp.data import epoch_order
from jaxbp.losses import Loss, SoftmaxCrossEntropy, SquaredError
from jaxbp.machine import threads
from jaxbp.models import MLP
from jaxbp.train.step import Feed, initial_state, make_program, make_step

EXAMPLES = 60_000
NIELSEN = MLP(outputs=10, hidden=(30,), activation="sigmoid", output_activation="sigmoid")
NETS = {  # name: (model, loss, batch size, steps in a loop)
    "784-30-10": (NIELSEN, SquaredError(), 10, 1000),
    "784-512-512-10": (MLP(outputs=10, hidden=(512, 512)), SoftmaxCrossEntropy(), 128, 40),
    "784-2048x3-10": (MLP(outputs=10, hidden=(2048,) * 3), SoftmaxCrossEntropy(), 512, 2),
}


def data(loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """Made images and labels (one-hot for squared error) of MNIST's size."""
    random = np.random.default_rng(0)
    x = random.random((EXAMPLES, 784), np.float32)
    y = random.integers(0, 10, EXAMPLES).astype(np.int32)
    return x, np.eye(10, dtype=np.float32)[y] if isinstance(loss, SquaredError) else y


def steps(name: str) -> tuple[Callable, Callable, object]:
    """(hand-written step, autodiff step, make a state) of a net."""
    config, loss, batch_size, _ = NETS[name]
    model, optimizer = config.build(), optax.sgd(0.1)
    hand, auto = (make_step(gradient(model, loss), optimizer) for gradient in (value_and_grad, autodiff))
    first = initial_state(model, optimizer, jax.ShapeDtypeStruct((batch_size, 784), jnp.float32), 0)
    return hand, auto, lambda: jax.tree.map(jnp.copy, first)


def cases() -> Iterator[Race]:
    for name in NETS:
        yield one_step(name)
        yield loop(name)
    yield epoch()


def one_step(name: str) -> Race:
    """A jit call for every step, the state donated."""
    *both, make_state = steps(name)
    _, loss, batch_size, _ = NETS[name]
    x, y = (jnp.asarray(a[:batch_size]) for a in data(loss))
    batch = {"x": x, "y": y, "mask": jnp.ones(batch_size)}
    compiled = [jax.jit(step, donate_argnums=0).lower(make_state(), batch).compile() for step in both]
    calls = 200 if batch_size == 10 else 5

    def run(step: Callable) -> None:
        state = make_state()
        for _ in range(calls):
            state = step(state, batch)
        jax.block_until_ready(state)

    hand, auto = (partial(run, step) for step in compiled)
    return Race(f"{name} step x {calls}", hand, auto, temp_bytes(compiled))


def loop(name: str, whole_epoch: bool = False) -> Race:
    """The training loop's compiled program: many steps a call, batches gathered on the device."""
    *both, make_state = steps(name)
    _, loss, batch_size, count = NETS[name]
    order, mask = (jnp.asarray(a) for a in epoch_order(0, 0, EXAMPLES, batch_size))
    count = len(order) if whole_epoch else count
    feed = Feed(*(jnp.asarray(a) for a in data(loss)), order, mask)
    arguments = (feed, jnp.int32(0), jnp.int32(count))
    compiled = [make_program(step).lower(make_state(), *arguments).compile() for step in both]
    run = lambda program: jax.block_until_ready(program(make_state(), *arguments))
    hand, auto = (partial(run, program) for program in compiled)
    return Race(f"{name} loop of {count}", hand, auto, temp_bytes(compiled))


def epoch() -> Race:
    """One epoch of 784-30-10 at batch 10, against PyTorch's eager loop and scikit-learn's MLPClassifier."""
    race = loop("784-30-10", whole_epoch=True)
    peers = {"scikit-learn": sklearn_epoch()}
    try:
        peers |= {"torch eager": torch_epoch()}
    except ModuleNotFoundError:
        warnings.warn("torch is not installed: that peer is left out", stacklevel=1)
    return Race("784-30-10 epoch", race.hand, race.autodiff, race.temp_bytes, peers)


def torch_epoch() -> Callable[[], None]:
    import torch

    torch.set_num_threads(threads())
    x, y = (torch.from_numpy(a) for a in data(SquaredError()))
    nn = torch.nn
    net = nn.Sequential(nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 10), nn.Sigmoid())
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=True)  # the fastest of its three forms here

    def run() -> None:
        for rows in torch.from_numpy(epoch_order(0, 0, EXAMPLES, 10)[0]):
            optimizer.zero_grad()
            (torch.sum((net(x[rows]) - y[rows]) ** 2) / 20).backward()
            optimizer.step()

    return run


def sklearn_epoch() -> Callable[[], None]:
    from sklearn.neural_network import MLPClassifier

    x, y = data(SoftmaxCrossEntropy())
    net = MLPClassifier((30,), activation="logistic", solver="sgd", batch_size=10, momentum=0, alpha=0)
    net.partial_fit(x[:10], np.arange(10), classes=np.arange(10))
    return lambda: net.partial_fit(x, y)


def temp_bytes(compiled: list) -> tuple[int, int]:
    return tuple(program.memory_analysis().temp_size_in_bytes for program in compiled)
