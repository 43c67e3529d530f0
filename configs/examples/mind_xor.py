"""One step of XOR by hand, "Mind: How to Build a Neural Network" (Miller 2015): 2-3-1 without biases at (1, 1).

    jaxbp trace --config=configs/examples/mind_xor.py

The output is 0.77438 and its delta 0.135296, with the sign of the gradient. The article rounds the hidden layer to two
digits and so prints 0.77469. It then rounds that output to 0.77, and so prints a delta of 0.1344.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    hidden = Dense(3, bias=False, w_init=Given(((0.8, 0.2), (0.4, 0.9), (0.3, 0.5))))
    output = Dense(1, bias=False, w_init=Given(((0.3, 0.5, 0.9),)))
    return Config(
        data=Rows(x=((1.0, 1.0),), y=((0.0,),)),
        model=Chain(hidden, Sigmoid(), output, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(1.0),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
