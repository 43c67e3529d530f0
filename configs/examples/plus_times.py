"""f = (x + y) z at x = -2, y = 5, z = -4, the graph of CS231n's notes: q = x + y = 3, f = q z = -12.

    jaxbp trace --config=configs/examples/plus_times.py

The first layer gives (q, z), the second their product. The loss |f + 13| is f + 13 here, so its derivatives are those
of f: -4 in x, -4 in y and 3 in z, in the row `x`.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxbp import Chain, Dense, Layer
from jaxbp.config import Config, Run
from jaxbp.data import Rows
from jaxbp.inits import Given
from jaxbp.losses import AbsoluteError
from jaxbp.optim import SGD


@dataclass(frozen=True)
class Times(Layer):
    """y = a b.   da = b dy,   db = a dy: each input's derivative is the other input."""

    def forward(self, params, x, ctx):
        return x[..., :1] * x[..., 1:], x

    def backward(self, params, x, dy):
        return dy * jnp.flip(x, -1), {}


def get_config() -> Config:
    plus = Dense(2, bias=False, w_init=Given(((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))))
    return Config(
        data=Rows(x=((-2.0, 5.0, -4.0),), y=((-13.0,),)),
        model=Chain(plus, Times()),
        loss=AbsoluteError(),
        optimizer=SGD(0.1),
        run=Run(epochs=1, batch_size=None),
    )
