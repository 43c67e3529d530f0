"""MNIST, a 784-512-512-10 perceptron with dropout.

    jaxbp train configs/mnist_mlp.py --config.data.path=FOLDER

Takes about 50 seconds on two cores; test accuracy of the last epoch 0.9853, 0.9868 and 0.9856 from seeds 0, 1 and 2.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import MLP
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Mnist(),
        model=MLP(outputs=10, hidden=(512, 512), dropout=0.3),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=20, batch_size=128),
    )
