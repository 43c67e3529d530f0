"""Three examples in one batch through a 2-2-1 network: every gradient is the mean of the three single ones.

    jaxbp trace --config=configs/examples/three_samples.py --examples=3

The weights of the examples, 1/3 each, do all averaging: the deltas carry them, and the gradients are sums.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    hidden = Dense(2, w_init=Given(((0.1, 0.4), (-0.3, 0.2))), b_init=Given((0.1, -0.1)))
    output = Dense(1, w_init=Given(((0.5, -0.7),)), b_init=Given((0.2,)))
    return Config(
        data=Rows(x=((1.0, 0.5), (-0.5, 2.0), (0.3, -1.0)), y=((1.0,), (0.0,), (0.5,))),
        model=Chain(hidden, Sigmoid(), output, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(1.0),
        run=Run(epochs=1000, batch_size=None, evaluate_every=100),
    )
