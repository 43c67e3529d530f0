"""Handwritten digits under differential privacy: every example's gradient clipped, and noise added to their mean.

    python scripts/train.py --config=configs/digits_dp.py

"""
from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import Private
from jaxbp.optimizers import SGD


def get_config() -> Config:
    return Config(
        data=Embedded("digits", scaling="min_max"),
        model=MLP(outputs=10, hidden=(64,), activation="tanh", w_init="glorot_normal"),
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=0.5, momentum=0.9, private=Private(norm=1.0, noise_multiplier=2.0)),
        run=Run(epochs=40, batch_size=256, evaluate_every=4),
    )
