"""The sigmoid neuron of CS231n's notes: f = sigmoid(w0 x0 + w1 x1 + w2) with w = (2, -3, -3) at x = (-1, -2).

    jaxbp trace --config=configs/examples/neuron.py

f is 0.7310586. The loss |f| is f here, so its derivatives are those of f: -0.19661, -0.39322 and 0.19661 in w, 0.39322
and -0.58984 in x. The notes round to two digits.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import AbsoluteError
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Rows(x=((-1.0, -2.0),), y=((0.0,),)),
        model=Chain(Dense(1, w_init=Given(((2.0, -3.0),)), b_init=Given((-3.0,))), Sigmoid()),
        loss=AbsoluteError(),
        optimizer=SGD(0.1),
        run=Run(epochs=1, batch_size=None),
    )
