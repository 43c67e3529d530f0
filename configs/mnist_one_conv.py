"""MNIST, a single convolutional layer of 20 filters and a layer of 100 sigmoid units (Nielsen 2015, chapter 6).

    jaxbp train configs/mnist_one_conv.py --config.data.path=FOLDER

Test accuracy 0.9885, last epoch; 8 minutes beside other work on two cores.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Mnist(image=True),
        model=CNN(
            outputs=10, channels=(20,), padding=(0,), hidden=(100,), activation="sigmoid", w_init="glorot_normal"
        ),
        loss=SoftmaxCrossEntropy(),
        optimizer=SGD(learning_rate=0.1),
        run=Run(epochs=20, batch_size=10),
    )
