"""Brownlee's 2-1-2 network, "How to Code a Neural Network with Backpropagation In Python" (2016): the row (1, 0).

    jaxbp trace --config=configs/examples/tiny_seeds.py

The outputs are 0.6629970 and 0.7253161, his digits. The weights are random.seed(1) and then random.random() seven
times. His printed deltas start from other outputs (sigmoid of the bias alone): tests/core/test_golden.py has them.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    hidden = Dense(1, w_init=Given(((0.13436424411240122, 0.8474337369372327),)), b_init=Given((0.763774618976614,)))
    bias = Given((0.49543508709194095, 0.651592972722763))
    output = Dense(2, w_init=Given(((0.2550690257394217,), (0.4494910647887381,))), b_init=bias)
    return Config(
        data=Rows(x=((1.0, 0.0),), y=((0.0, 1.0),)),
        model=Chain(hidden, Sigmoid(), output, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(0.5),
        run=Run(epochs=20, batch_size=None),
    )
