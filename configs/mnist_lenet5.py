"""MNIST, LeNet-5 (LeCun et al. 1998, Proceedings of the IEEE 86(11), section II.B): average pooling and tanh.

    jaxbp train configs/mnist_lenet5.py --config.data.path=FOLDER

Layers, sizes and order are the paper's; every map of C3 sees all of S2, S2 and S4 are plain averages, and the output
layer is softmax. 61,706 parameters. Test accuracy 0.9876, last epoch; some 6 minutes beside other work on two cores.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Mnist(image=True),
        model=CNN(
            outputs=10,
            channels=(6, 16),
            padding=(2, 0),
            pooling="average",
            hidden=(120, 84),
            activation="tanh",
            w_init="glorot_normal",
        ),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=2e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=20, batch_size=128),
    )
