"""Handwritten digits of scikit-learn (1797 images of 8 x 8), convolutions and the logarithm of their covariance (O2P).

jaxbp train configs/digits_log_covariance.py
"""

from jaxbp import Chain, Conv, Dense, ReLU, SecondOrderPool, Spectral, SymmetricVector
from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import LayerModel
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    convolutions = (Conv(16, (3, 3)), ReLU(), Conv(16, (3, 3)), ReLU())
    pooling = (SecondOrderPool(center=True), Spectral("log", floor=1e-3), SymmetricVector())
    return Config(
        data=Embedded("digits", image=True, scaling="min_max"),
        model=LayerModel.of(Chain((*convolutions, *pooling, Dense(10)))),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=4e-3, schedule=Cosine(warmup=0.1)),
        run=Run(epochs=30, batch_size=64),
    )
