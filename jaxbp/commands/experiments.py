"""The experiments that commands know by name, for who has no clone with its folder configs/.

They equal configs/digits_mlp.py and configs/xor.py, where it stands how long they take and what they reach.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Embedded, Logic
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import MLP
from jaxbp.optim import Adam, AdamW, Cosine

EXPERIMENTS = {
    "digits_mlp": Config(
        data=Embedded("digits", scaling="min_max"),
        model=MLP(outputs=10, hidden=(256, 256), dropout=0.3),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=3e-3, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=40, batch_size=32),
    ),
    "xor": Config(
        data=Logic("xor"),
        model=MLP(outputs=1, hidden=(4,), activation="tanh", output_activation="sigmoid", w_init="glorot_normal"),
        loss=SquaredError("half_sum"),
        optimizer=Adam(learning_rate=0.05),
        run=Run(epochs=1000, batch_size=None, evaluate_every=100),
    ),
}
