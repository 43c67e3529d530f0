"""What ten output neurons wish for an image of a 2 (3Blue1Brown, What is backpropagation really doing?, 2017).

    jaxbp trace --config=configs/examples/digit_two.py

The cost is the sum of (a - y)^2, with y = 1 for the digit 2 and 0 for the others. Its derivative in an output is
2 (a - y): minus that is the nudge which the neuron wishes. The 2, at 0.2, wishes +1.6. All others wish down: the 1, at
0.8, -1.6; the 8, at 0.2, only -0.4. A weight's wish grows with the activation before it, so that of a neuron at 0 has
none. An activation wishes minus the derivative in x: the sum of what all ten outputs wish of it. The rule is that of
the video, the numbers are made for this example.
"""

import numpy as np

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD

OUTPUTS = (0.5, 0.8, 0.2, 0.9, 0.4, 0.6, 0.9, 0.1, 0.2, 0.1)
HIDDEN = (0.9, 0.1, 0.6, 0.0)  # activations of the layer before


def get_config() -> Config:
    outputs, hidden = np.array(OUTPUTS), np.array(HIDDEN)
    w = np.arange(40).reshape(10, 4) % 7 / 4 - 0.75  # from -0.75 to 0.75
    b = np.log(outputs / (1 - outputs)) - w @ hidden  # so that the outputs are those above
    return Config(
        data=Rows(x=(HIDDEN,), y=(tuple(np.eye(10)[2].tolist()),)),
        model=Chain(Dense(10, w_init=Given(tuple(map(tuple, w.tolist()))), b_init=Given(tuple(b.tolist()))), Sigmoid()),
        loss=SquaredError("sum"),
        optimizer=SGD(0.1),
        run=Run(epochs=1, batch_size=None),
    )
