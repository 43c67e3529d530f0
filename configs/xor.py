"""XOR with a 2-4-1 network of tanh and sigmoid units, full batch.

    jaxbp train configs/xor.py

Takes about 3 seconds; the four outputs end within 0.1 of their targets.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Logic
from jaxbp.losses import SquaredError
from jaxbp.models import MLP
from jaxbp.optim import Adam


def get_config() -> Config:
    return Config(
        data=Logic("xor"),
        model=MLP(outputs=1, hidden=(4,), activation="tanh", output_activation="sigmoid", w_init="glorot_normal"),
        loss=SquaredError("half_sum"),
        optimizer=Adam(learning_rate=0.05),
        run=Run(epochs=1000, batch_size=None, evaluate_every=100),
    )
