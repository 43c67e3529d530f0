"""MNIST, two convolutions, capsules of 8 units, then ten of 16 units by dynamic routing: their lengths are the scores.

jaxbp train configs/mnist_capsules.py --config.data.path=FOLDER
"""

from jaxbp import Capsules, Chain, Conv, Lengths, ReLU, Reshape, Squash
from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import MulticlassHinge
from jaxbp.models import LayerModel
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    below = (Conv(32, (5, 5), strides=2, padding="VALID"), ReLU(), Conv(32, (5, 5), strides=2, padding="VALID"))
    capsules = (Reshape((-1, 8)), Squash(), Capsules(10, 16), Lengths())
    return Config(
        data=Mnist(image=True, shift=2),
        model=LayerModel.of(Chain((*below, *capsules))),
        loss=MulticlassHinge(margin=0.8),
        optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=15, batch_size=128),
    )
