"""ADALINE (Widrow & Hoff 1960): one linear unit, squared error, cut at 0.5. It learns the logical and, full batch.

    jaxbp train configs/adaline.py

Takes about 5 seconds; test accuracy 1.0 at the least loss that a linear unit can have, 1/32. The data is no sample but
the truth table, with 0 and 1 where Widrow had -1 and 1. Of the sixteen operators it learns all but xor and xnor: with
--config.data.operator=xor it ends at loss 1/8, every output 0.5.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Logic
from jaxbp.losses import SquaredError
from jaxbp.models import MLP
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Logic("and"),
        model=MLP(outputs=1),
        loss=SquaredError("half_sum"),
        optimizer=SGD(learning_rate=0.1),
        run=Run(epochs=500, batch_size=None, evaluate_every=50),
    )
