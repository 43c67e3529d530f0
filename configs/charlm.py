"""A language model by characters: an LSTM on text, by default the sources of Python's standard library.

    jaxbp train configs/charlm.py
    jaxbp train configs/charlm.py --config.data.path=FILE     # any text
    jaxbp sample runs/charlm --temperature=0.7

On tinyshakespeare (1,115,394 characters, the last tenth for the test) 1.503 nats a character; 25 minutes on two cores.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Text
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import RNN
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Text(size=1_115_394, length=128, streams=32),
        model=RNN(outputs=97, hidden=(256,), embedding=64, dropout=0.3, carry=True),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=4e-3, schedule=Cosine(warmup=0.02), clip_norm=1.0),
        run=Run(epochs=40, batch_size=32, shuffle=False, steps_per_call=50),
    )
