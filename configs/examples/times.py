"""c = a b at a = 2, b = 3: moving a by 1 moves c by b, and moving b by 1 moves c by a.

    jaxbp trace --config=configs/examples/times.py

a is the weight and b the input. The loss |c| is c here, so its derivatives are those of c: 3 in a, 2 in b.
"""

from jaxbp import Chain, Dense
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import AbsoluteError
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Rows(x=((3.0,),), y=((0.0,),)),
        model=Chain(Dense(1, bias=False, w_init=Given(((2.0,),)))),
        loss=AbsoluteError(),
        optimizer=SGD(0.1),
        run=Run(epochs=1, batch_size=None),
    )
