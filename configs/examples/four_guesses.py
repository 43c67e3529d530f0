"""Four guesses for four answers: Trask's 3-4-1 network, "A Neural Network in 11 lines of Python" (2015).

    jaxbp trace --config=configs/examples/four_guesses.py --examples=4

A batch of 4 x 3 inputs gives a 4 x 1 matrix of guesses. Weights are those of numpy.random.seed(1), between -1 and 1.
The article prints mean errors of 0.496410031903 before the first step and 0.00858452565325 after 10,000. It sums
over the examples at rate 1; the mean over four of them takes rate 4.
"""

import numpy as np

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    draw = np.random.RandomState(1)
    weights = [2 * draw.random_sample(shape) - 1 for shape in ((3, 4), (4, 1))]  # input-first, as in the article
    hidden, output = (Given(tuple(map(tuple, w.T.tolist()))) for w in weights)
    return Config(
        data=Rows(
            x=((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 1.0)), y=((0.0,), (1.0,), (1.0,), (0.0,))
        ),
        model=Chain(Dense(4, bias=False, w_init=hidden), Sigmoid(), Dense(1, bias=False, w_init=output), Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(4.0),
        run=Run(epochs=10_000, batch_size=None, evaluate_every=1000),
    )
