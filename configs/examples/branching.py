"""One input, one unit, two branches, one output: in -> i -> {j, k} -> o. The delta of i is a sum over two paths.

    jaxbp trace --config=configs/examples/branching.py

delta_i = (delta_j w_ij + delta_k w_ik) slope_i; the output is linear, and the branches are sigmoids.
"""

from jaxbp import Chain, Dense, Sigmoid
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import SquaredError
from jaxbp.optim import SGD


def get_config() -> Config:
    first = Dense(1, bias=False, w_init=Given(((0.3,),)))
    branches = Dense(2, bias=False, w_init=Given(((0.8,), (-0.6,))))
    output = Dense(1, bias=False, w_init=Given(((0.7, 0.9),)))
    return Config(
        data=Rows(x=((2.0,),), y=((1.0,),)),
        model=Chain(first, Sigmoid(), branches, Sigmoid(), output),
        loss=SquaredError("half_sum"),
        optimizer=SGD(0.5),
        run=Run(epochs=100, batch_size=None, evaluate_every=10),
    )
