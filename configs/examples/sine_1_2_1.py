"""The 1-2-1 network of Hagan, Demuth & Beale, "Neural Network Design" (1996), chapter 11.

    jaxbp trace --config=configs/examples/sine_1_2_1.py

It learns 1 + sin(pi p / 4), here at p = 1. The loss is e^2 without the half. The error is 1.2608, the sensitivities are
-2.5216 and (-0.04945, 0.09972). A step at rate 0.1 gives W2 = (0.1709, -0.0772), b2 = 0.7322, W1 = (-0.2651, -0.4200),
b1 = (-0.4751, -0.1400).
"""

import math

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    hidden = Dense(2, w_init=Given(((-0.27,), (-0.41,))), b_init=Given((-0.48, -0.13)))
    output = Dense(1, w_init=Given(((0.09, -0.17),)), b_init=Given((0.48,)))
    return Config(
        data=Rows(x=((1.0,),), y=((1 + math.sin(math.pi / 4),),)),
        model=Chain(hidden, Sigmoid(), output),
        loss=SquaredError("sum"),
        optimizer=SGD(0.1),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
