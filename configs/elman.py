"""Elman's network on xor over time (1990, Finding structure in time): 1-2-1 with two context units.

    jaxbp train configs/elman.py

The delta goes back no step in time, as in the paper: the context is only an input. In the test part only the third bits
count. Their mean squared error ends at 0.16, beside 0.27 at the two random bits: the dip at every third step of his
figure 3, TIME. `python -m bench.memory` shows the error at each step.
"""

from jaxbp import Chain, Dense, Recurrent, Sigmoid, SimpleCell
from jaxbp.config import Config, Run
from jaxbp.data import TemporalXor
from jaxbp.losses import SquaredError
from jaxbp.optim import Adam


def get_config() -> Config:
    return Config(
        data=TemporalXor(),
        model=Chain(Recurrent(SimpleCell(2), truncate=1), Dense(1), Sigmoid()),
        loss=SquaredError("mean"),
        optimizer=Adam(learning_rate=0.02),
        run=Run(epochs=300, batch_size=10, evaluate_every=50),
    )
