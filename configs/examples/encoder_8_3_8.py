"""The 8-3-8 encoder of Mitchell, "Machine Learning" (1997), section 4.6.4: three hidden units find a code.

    jaxbp trace --config=configs/examples/encoder_8_3_8.py --examples=8
    jaxbp train configs/examples/encoder_8_3_8.py

After training, the hidden values of the eight patterns, rounded, are the eight numbers of three bits in some order.
Each output that should be 1 is above 0.9, and all others are below 0.1. Mitchell has a rate of 0.3; here the rate is 10
and the error a mean over the eight patterns.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Encoder
from jaxbp.losses import SquaredError
from jaxbp.models import MLP
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Encoder(8),
        model=MLP(outputs=8, hidden=(3,), activation="sigmoid", output_activation="sigmoid", w_init="glorot_normal"),
        loss=SquaredError("half_sum"),
        optimizer=SGD(10.0),
        run=Run(epochs=5000, batch_size=None, evaluate_every=1000),
    )
