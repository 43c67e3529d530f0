"""36 letters and digits of 7 x 5 pixels, each seen once, recognised with 4 of their 35 pixels flipped; 35-64-36.

    jaxbp train configs/characters.py

Takes about 5 seconds; test accuracy 0.956 on 360 noisy characters (choosing the nearest drawn one has 0.967). The
penalty is worth 0.02: it keeps the weights small, and with them what the noise does.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Characters
from jaxbp.losses import Penalty, SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import Adam


def get_config() -> Config:
    return Config(
        data=Characters(),
        model=MLP(outputs=36, hidden=(64,)),
        loss=SoftmaxCrossEntropy(),
        optimizer=Adam(learning_rate=0.01),
        run=Run(epochs=300, batch_size=None, evaluate_every=30),
        penalty=Penalty(l2=1e-3),
    )
