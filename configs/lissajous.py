"""The next point of a Lissajous figure, which crosses itself: a simple recurrent network.

jaxbp train configs/lissajous.py

"""

from jaxbp.config import Config, Run
from jaxbp.data import Curve
from jaxbp.losses import SquaredError
from jaxbp.models import RNN
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Curve("lissajous"),
        model=RNN(outputs=2, hidden=(32,), cell="simple"),
        loss=SquaredError(scale="mean"),
        optimizer=AdamW(learning_rate=5e-3, weight_decay=0.0, schedule=Cosine(warmup=0.05), clip_norm=1.0),
        run=Run(epochs=60, batch_size=32),
    )
