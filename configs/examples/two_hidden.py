"""Input, hidden, hidden, output: the 2-3-2-1 network of the picture tutorial of AGH Krakow, without biases.

    jaxbp trace --config=configs/examples/two_hidden.py

The tutorial has no numbers, so the weights are made up. It sends each delta back through the weights, and multiplies by
the slope in the update: w' = w + rate * delta * df/de * x. That delta is the error here, with the other sign.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    first = Dense(3, bias=False, w_init=Given(((0.5, -0.2), (0.3, 0.8), (-0.6, 0.1))))
    second = Dense(2, bias=False, w_init=Given(((0.4, 0.7, -0.3), (-0.5, 0.2, 0.9))))
    third = Dense(1, bias=False, w_init=Given(((0.6, -0.8),)))
    return Config(
        data=Rows(x=((1.0, 0.5),), y=((1.0,),)),
        model=Chain(first, Sigmoid(), second, Sigmoid(), third, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(0.5),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
