"""MNIST, a small residual network with batch norm.

jaxbp train configs/mnist_resnet.py --config.data.path=FOLDER

"""

from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import ResNet
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Mnist(image=True, shift=2, rotation=10.0),
        model=ResNet(outputs=10, channels=(16, 32, 64), blocks=1),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=4e-3, weight_decay=1e-3, schedule=Cosine(warmup=0.1)),
        run=Run(epochs=6, batch_size=128),
    )
