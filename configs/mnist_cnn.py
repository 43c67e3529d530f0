"""MNIST, two stages of convolution and pooling, a dense layer with dropout; images shifted and turned in training.

    jaxbp train configs/mnist_cnn.py --config.data.path=FOLDER

Test accuracy 0.9960, the median of seeds 0-2 (0.9956 to 0.9963), last epoch; 6 minutes on two cores (seed 0).
"""

from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Mnist(image=True, shift=2, rotation=10.0),
        model=CNN(outputs=10, channels=(32, 64), hidden=(256,), dropout=0.4),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=2e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=15, batch_size=128),
    )
