"""A 3-2-2 network in the numbers 0.1 to 1.0, "Backpropagation Example With Numbers Step by Step" (2019).

    jaxbp trace --config=configs/examples/ten_weights.py

x = (1, 4, 5) to t = (0.1, 0.05): the hidden sums are 4.3 and 5.3, the outputs 0.88955 and 0.90757, the loss 0.67941.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    hidden = Dense(2, w_init=Given(((0.1, 0.3, 0.5), (0.2, 0.4, 0.6))), b_init=Given((0.5, 0.5)))
    output = Dense(2, w_init=Given(((0.7, 0.9), (0.8, 1.0))), b_init=Given((0.5, 0.5)))
    return Config(
        data=Rows(x=((1.0, 4.0, 5.0),), y=((0.1, 0.05),)),
        model=Chain(hidden, Sigmoid(), output, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(0.01),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
