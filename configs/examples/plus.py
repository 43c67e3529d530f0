"""c = a + b at a = 2, b = 1, the smallest graph there is: moving a by 1 moves c by 1.

    jaxbp trace --config=configs/examples/plus.py

The loss |c| is c here, so its derivatives are those of c: 1 and 1, in the row `x`.
"""

from jaxbp import Chain, Dense
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import AbsoluteError
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Rows(x=((2.0, 1.0),), y=((0.0,),)),
        model=Chain(Dense(1, bias=False, w_init=Given(((1.0, 1.0),)))),
        loss=AbsoluteError(),
        optimizer=SGD(0.1),
        run=Run(epochs=1, batch_size=None),
    )
