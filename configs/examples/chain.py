"""The shortest deep network: one number through two weights and two sigmoids, f = sigmoid(w2 sigmoid(w1 x)).

    jaxbp trace --config=configs/examples/chain.py

With x = 1, w1 = 0.5, w2 = 2 and target 0: dL/dw1 = (f - t) f (1 - f) w2 h (1 - h) x with h = sigmoid(w1 x). Every
sigmoid multiplies by a slope of at most 1/4: that is how gradients vanish.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    layers = [layer for w in (0.5, 2.0) for layer in (Dense(1, bias=False, w_init=Given(((w,),))), Sigmoid())]
    return Config(
        data=Rows(x=((1.0,),), y=((0.0,),)),
        model=Chain(*layers),
        loss=SquaredError("half_sum"),
        optimizer=SGD(1.0),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
