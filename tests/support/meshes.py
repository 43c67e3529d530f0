"""Small configs of every kind of model, and their runs on one device and on a mesh."""

from dataclasses import replace

import jax
import numpy as np

from jaxbp import optim
from jaxbp.config import Config, Run
from jaxbp.core import cast
from jaxbp.data import Adding, Embedded, Text
from jaxbp.devices.mesh import MeshShape
from jaxbp.losses import Penalty, SoftmaxCrossEntropy, SquaredError
from jaxbp.models import GPT, MLP, RNN, ResNet
from jaxbp.training.folder import RunFolder
from jaxbp.training.loop import Session, new_session
from jaxbp.training.step import State

RUN = Run(epochs=2, batch_size=16, evaluate_every=2)
CONFIGS = {
    "dense": Config(
        data=Embedded("wine", scaling="standard", validation_fraction=0.2),
        model=MLP(outputs=3, hidden=(16, 8), dropout=0.1),
        loss=SoftmaxCrossEntropy(),
        optimizer=optim.AdamW(clip_norm=1.0),
        run=replace(RUN, micro_batches=2),
        penalty=Penalty(l2=1e-3),
    ),
    "convolution": Config(
        data=Embedded("digits", image=True, shift=1),
        model=ResNet(outputs=10, channels=(8,)),
        loss=SoftmaxCrossEntropy(label_smoothing=0.1),
        optimizer=optim.SGD(learning_rate=0.01, momentum=0.9),
        run=RUN,
    ),
    "recurrent": Config(
        data=Adding(length=12, examples=160, test_examples=16),
        model=RNN(outputs=1, hidden=(16,), cell="gru", output="last", dropout=0.1),
        loss=SquaredError(),
        optimizer=optim.Adam(),
        run=RUN,
    ),
    "transformer": Config(
        data=Text(size=4000, length=16),
        model=GPT(outputs=97, width=16, depth=2, heads=2, context=16, dropout=0.1),
        loss=SoftmaxCrossEntropy(chunk=32),
        optimizer=optim.Adam(),
        run=RUN,
    ),
}


def on(config: Config, data: int, fsdp: int, **run) -> Config:
    """The config on a mesh."""
    return replace(config, run=replace(config.run, mesh=MeshShape(data, fsdp), **run))


def session_of(config: Config, folder) -> tuple[Session, State]:
    """What a run begins with."""
    return new_session(config, config.load_data(), RunFolder(folder))


def losses(session: Session, state: State, steps: int, dtype: str = "float32") -> np.ndarray:
    """The loss of each of the first steps, computed in `dtype` from the weights and data that float32 has."""
    feed = session.feeds()(0, -(-steps // session.steps))
    state = cast(state, dtype)
    values = []
    for first in range(steps):
        part, index = feed.call(first, 1)
        state, (loss_sum, examples, _) = session.program(state, cast(part, dtype), index, np.int32(1))
        values.append(float(loss_sum) / float(examples))
        zero = jax.device_put(np.zeros((), dtype), state.loss_sum.sharding)
        state = replace(state, loss_sum=zero, examples=zero + 0)
    return np.array(values)
