"""Elman's network on xor over time (1990, Finding structure in time): 1-2-1 with two context units.

    jaxbp train configs/elman.py

In the test part only the third bits count; an answer of 1/2 has a mean squared error of 0.25 there, and this net 0.11.
Elman's own delta goes back no step in time, for the context is only an input to him: `python -m bench.memory` trains
it so, and shows the dip of the error at every third step.
"""

from jaxbp import Chain, Dense, Recurrent, Sigmoid, SimpleCell
from jaxbp.config import Config, Run
from jaxbp.data import TemporalXor
from jaxbp.losses import SquaredError
from jaxbp.optim import Adam


def get_config() -> Config:
    return Config(
        data=TemporalXor(),
        model=Chain(Recurrent(SimpleCell(2)), Dense(1), Sigmoid()),
        loss=SquaredError("mean"),
        optimizer=Adam(learning_rate=0.02),
        run=Run(epochs=300, batch_size=10, evaluate_every=50),
    )
