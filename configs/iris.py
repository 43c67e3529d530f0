"""Iris (150 flowers, 4 measurements, 3 species), a small perceptron on standardised features.

    jaxbp train configs/iris.py

Takes about 3 seconds; test accuracy about 0.95.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Embedded("iris", scaling="standard", test_fraction=0.4),
        model=MLP(outputs=3, hidden=(16,), activation="tanh", w_init="glorot_normal"),
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=0.1, momentum=0.9),
        run=Run(epochs=100, batch_size=16, evaluate_every=10),
    )
