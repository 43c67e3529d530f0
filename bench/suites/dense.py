"""Suite dense: whole training steps of dense networks, as a jit call each and inside the training loop; one epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.race import Race, Run
from bench.training_race import Timed, looped, race, stepwise
from jaxbp import value_and_grad
from jaxbp.check import autodiff
from jaxbp.data import epoch_order
from jaxbp.losses import Loss, SoftmaxCrossEntropy, SquaredError
from jaxbp.machine import threads
from jaxbp.models import MLP
from jaxbp.training.step import Feed, State, initial_state, make_step

EXAMPLES = 60_000
NIELSEN = MLP(outputs=10, hidden=(30,), activation="sigmoid", output_activation="sigmoid")
NETS = {  # name: (model, loss, batch size, steps in a loop)
    "784-30-10": (NIELSEN, SquaredError(), 10, 1000),
    "784-512-512-10": (MLP(outputs=10, hidden=(512, 512)), SoftmaxCrossEntropy(), 128, 40),
    "784-2048x3-10": (MLP(outputs=10, hidden=(2048,) * 3), SoftmaxCrossEntropy(), 512, 2),
}


def cases() -> Iterator[Race]:
    for name in NETS:
        yield one_step(name)
        yield loop(name)
    yield epoch()


def data(loss: Loss) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels (one-hot for squared error) of MNIST's size."""
    random = np.random.default_rng(0)
    x = random.random((EXAMPLES, 784), np.float32)
    y = random.integers(0, 10, EXAMPLES).astype(np.int32)
    return x, np.eye(10, dtype=np.float32)[y] if isinstance(loss, SquaredError) else y


def networks(name: str) -> tuple[dict[str, Callable], State]:
    """-> ({"hand", "autodiff"}: training step, their first state) of a net."""
    config, loss, batch_size, _ = NETS[name]
    model, optimizer = config.build(), optax.sgd(0.1)
    gradients = {"hand": value_and_grad(model, loss), "autodiff": autodiff(model, loss)}
    state = initial_state(model, optimizer, jax.ShapeDtypeStruct((batch_size, 784), jnp.float32), 0)
    return {form: make_step(gradient, optimizer) for form, gradient in gradients.items()}, state


def one_step(name: str) -> Race:
    """A jit call for every step, the state donated."""
    _, loss, batch_size, _ = NETS[name]
    x, y = (jnp.asarray(a[:batch_size]) for a in data(loss))
    batch = {"x": x, "y": y, "mask": jnp.ones(batch_size)}
    calls = 200 if batch_size == 10 else 5
    steps, state = networks(name)
    timed = {form: stepwise(step, state, batch, calls) for form, step in steps.items()}
    return race(f"{name} step x {calls}", timed, {})


def loop(name: str) -> Race:
    """The training loop's compiled program: many steps a call, batches gathered on the device."""
    count = NETS[name][-1]
    return race(f"{name} loop of {count}", looped_forms(name, count), {})


def epoch() -> Race:
    """One epoch of 784-30-10 at batch 10, against PyTorch's eager loop and scikit-learn's MLPClassifier."""
    peers: dict[str, Run] = {"scikit-learn": sklearn_epoch()}
    try:
        peers |= {"torch eager": torch_epoch()}
    except ModuleNotFoundError:
        warnings.warn("torch is not installed: that peer is left out", stacklevel=1)
    return race("784-30-10 epoch", looped_forms("784-30-10", EXAMPLES // 10), peers)


def looped_forms(name: str, count: int) -> dict[str, Timed]:
    """The forms "hand" and "autodiff", each for `count` steps inside the training loop's program."""
    _, loss, batch_size, _ = NETS[name]
    order, mask = (jnp.asarray(a) for a in epoch_order(0, 0, EXAMPLES, batch_size))
    x, y = (jnp.asarray(a) for a in data(loss))
    steps, state = networks(name)
    return {form: looped(step, state, Feed(x, y, order, mask), count) for form, step in steps.items()}


def torch_epoch() -> Run:
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


def sklearn_epoch() -> Run:
    from sklearn.neural_network import MLPClassifier

    x, y = data(SoftmaxCrossEntropy())
    net = MLPClassifier((30,), activation="logistic", solver="sgd", batch_size=10, momentum=0, alpha=0)
    net.partial_fit(x[:10], np.arange(10), classes=np.arange(10))
    return lambda: net.partial_fit(x, y)
