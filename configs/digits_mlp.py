"""Handwritten digits of scikit-learn (1797 images of 8 x 8), a multilayer perceptron: the default experiment.

    jaxbp train configs/digits_mlp.py

Takes about 10 seconds on two cores; test accuracy 0.9805, 0.9833, 0.9833 and 0.9861 from seeds 0 to 3.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Embedded("digits", scaling="min_max"),
        model=MLP(outputs=10, hidden=(256, 256), dropout=0.3),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=3e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=40, batch_size=32),
    )
