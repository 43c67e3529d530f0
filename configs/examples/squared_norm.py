"""f = |W x|^2, the vectorised example of CS231n's notes: q = W x = (0.22, 0.26), f = 0.116.

    jaxbp trace --config=configs/examples/squared_norm.py

The derivatives are 2 q in q, 2 q x^T in W and 2 W^T q = (-0.112, 0.636) in x.
"""

from jaxbp import Chain, Dense
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Rows(x=((0.2, 0.4),), y=((0.0, 0.0),)),
        model=Chain(Dense(2, bias=False, w_init=Given(((0.1, 0.5), (-0.3, 0.8))))),
        loss=SquaredError("sum"),
        optimizer=SGD(0.1),
        run=Run(epochs=1, batch_size=None),
    )
