"""Regression: the sine of 160 points in [-3, 3) with noise of standard deviation 0.1, by 32 tanh units.

    jaxbp train configs/sine.py

Takes about 5 seconds; test loss (mean squared error) 0.0147, R^2 0.974. The noise alone makes 0.01 of the loss.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Function
from jaxbp.losses import SquaredError
from jaxbp.models import MLP
from jaxbp.optim import Adam, Cosine


def get_config() -> Config:
    return Config(
        data=Function("sine", noise=0.1),
        model=MLP(outputs=1, hidden=(32,), activation="tanh", w_init="glorot_normal"),
        loss=SquaredError("mean"),
        optimizer=Adam(learning_rate=0.02, schedule=Cosine()),
        run=Run(epochs=200, batch_size=16, evaluate_every=20),
    )
