"""The network of Nielsen's book, chapter 1: 784-30-10 sigmoid units, quadratic cost, batch 10, learning rate 3.

    jaxbp train configs/mnist_nielsen.py --config.data.path=FOLDER

Weights and biases start as N(0, 1), as in his network.py; he trains on the first 50,000 images, this on all 60,000.
Takes about 20 seconds on two cores; over seeds 0-7 the best epoch has 0.951 to 0.958, median 0.954 (the book: 0.9542).

His two larger runs, best epoch (two cores of an Intel Xeon, jax 0.10.2, 2026-11-27):

    --config.model.hidden=100    0.965 to 0.968 over five of the seeds 0-7 (the book: 0.9659); 0.689, 0.782 and 0.872
                                 over the others, where three, two and one of the outputs stay near 0 for every image
    the same with --config.loss=BinaryCrossEntropy --config.model.output_activation=identity
    --config.optimizer.learning_rate=0.5 --config.penalty.l2=1e-4
                                 0.9789, seed 0 (the book, chapter 3: 0.9792 of its validation images; the penalty is
                                 its 5 / 50,000)
"""

from jaxbp.config import Config, Run
from jaxbp.data import Mnist
from jaxbp.losses import SquaredError
from jaxbp.models import MLP
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Mnist(one_hot=True),
        model=MLP(
            outputs=10,
            hidden=(30,),
            activation="sigmoid",
            output_activation="sigmoid",
            w_init="normal",
            b_init="normal",
        ),
        loss=SquaredError("half_sum"),
        optimizer=SGD(learning_rate=3.0),
        run=Run(epochs=30, batch_size=10, steps_per_call=1000),
    )
