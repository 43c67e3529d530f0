"""Mazur's 2-2-2 network, "A Step by Step Backpropagation Example" (2015): every number of it.

    jaxbp trace --config=configs/examples/two_by_two.py

The loss is 0.298371109 and the gradient of w5 0.082167041. Both biases of a layer are the same number, and they stay as
they are. A step gives the eight weights that he prints, w1 = 0.149780716 among them, and the loss 0.291027774. He
prints 0.291027924, which comes of sequential updates: the hidden deltas sent back through output weights that were
already changed. After 10,000 steps the loss is 3.5102e-5; the outputs that he prints, 0.015912196 and 0.984065734, are
again those of sequential updates.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD, Group


def get_config() -> Config:
    hidden = Dense(2, w_init=Given(((0.15, 0.20), (0.25, 0.30))), b_init=Given((0.35, 0.35)))
    output = Dense(2, w_init=Given(((0.40, 0.45), (0.50, 0.55))), b_init=Given((0.60, 0.60)))
    return Config(
        data=Rows(x=((0.05, 0.10),), y=((0.01, 0.99),)),
        model=Chain(hidden, Sigmoid(), output, Sigmoid()),
        loss=SquaredError("half_sum"),
        optimizer=SGD(0.5, groups=(Group(".*/b", learning_rate_factor=0), Group(".*"))),
        run=Run(epochs=10_000, batch_size=None, evaluate_every=10_000),
    )
