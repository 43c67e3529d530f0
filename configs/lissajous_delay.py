"""The next point of a Lissajous figure, which crosses itself: a tapped delay line and a perceptron.

jaxbp train configs/lissajous_delay.py
jaxbp train configs/lissajous_delay.py --config.model.taps=1     # cannot know the direction

"""

from jaxbp.config import Config, Run
from jaxbp.data import Curve
from jaxbp.losses import SquaredError
from jaxbp.models import TDNN
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Curve("lissajous"),
        model=TDNN(outputs=2, taps=2),
        loss=SquaredError(scale="mean"),
        optimizer=AdamW(learning_rate=5e-3, weight_decay=0.0, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=60, batch_size=32),
    )
