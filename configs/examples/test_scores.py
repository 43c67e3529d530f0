"""Hours of study and of sleep to a test score, the 2-3-1 network of Enlight's tutorial with the weights of its picture.

    jaxbp trace --config=configs/examples/test_scores.py

The picture feeds the raw hours (2, 9) to the network: sums 7.6, 3.9 and 6.5, activations 0.99950, 0.98016 and 0.99850.
The output is 0.85675, the target 92 of 100. The picture's hidden weights are certain, its output weights (0.4, 0.5,
0.9) are not. The tutorial's code divides the hours by their largest, which is `--config.data.x=0.6667,1`.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    hidden = Dense(3, bias=False, w_init=Given(((0.2, 0.8), (0.6, 0.3), (0.1, 0.7))))
    output = Dense(1, bias=False, w_init=Given(((0.4, 0.5, 0.9),)))
    return Config(
        data=Rows(x=((2.0, 9.0),), y=((0.92,),)),
        model=Chain(hidden, Sigmoid(), output, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(1.0),
        run=Run(epochs=1000, batch_size=None, evaluate_every=100),
    )
