"""Logistic regression by gradient descent: breast cancer (569 patients, 30 measurements) with one sigmoid output.

    jaxbp train configs/logistic.py

Takes about 5 seconds; test accuracy 0.9825. The penalty is that of scikit-learn's LogisticRegression at C=1, 1 / (C N)
with N = 455 training examples, and the weights end within 0.002 of its own.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.losses import BinaryCrossEntropy, Penalty
from jaxbp.models import MLP
from jaxbp.optim import SGD


def get_config() -> Config:
    return Config(
        data=Embedded("breast_cancer", scaling="standard"),
        model=MLP(outputs=1),
        loss=BinaryCrossEntropy(),
        optimizer=SGD(learning_rate=0.5, momentum=0.9),
        run=Run(epochs=500, batch_size=None, evaluate_every=50),
        penalty=Penalty(l2=1 / 455),
    )
