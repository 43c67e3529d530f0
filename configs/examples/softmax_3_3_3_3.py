"""Jay's 3-3-3-3 network of ReLU, sigmoid and softmax units, "Back-Propagation is very simple" (2017), put right.

    jaxbp trace --config=configs/examples/softmax_3_3_3_3.py

The loss is 1.6172337500 and the softmax (0.198447, 0.285356, 0.516198). The article first printed (0.2698, 0.3223,
0.4078), which is a / sum(a) without exp, and then (0.19858, 0.28559, 0.51583), from rounded intermediates. It writes
weights input-first; here they are output-first.
"""

from jaxbp import Chain, Dense, ReLU, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.optim import SGD


def get_config() -> Config:
    ones = Given((1.0, 1.0, 1.0))
    first = Dense(3, w_init=Given(((0.1, 0.3, 0.4), (0.2, 0.2, 0.3), (0.3, 0.7, 0.9))), b_init=ones)
    second = Dense(3, w_init=Given(((0.2, 0.3, 0.6), (0.3, 0.5, 0.4), (0.5, 0.7, 0.8))), b_init=ones)
    third = Dense(3, w_init=Given(((0.1, 0.3, 0.5), (0.4, 0.7, 0.2), (0.8, 0.2, 0.9))), b_init=ones)
    return Config(
        data=Rows(x=((0.1, 0.2, 0.7),), y=((1.0, 0.0, 0.0),)),
        model=Chain(first, ReLU(), second, Sigmoid(), third),
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(0.01),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
