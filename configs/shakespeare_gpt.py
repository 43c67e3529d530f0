"""A small GPT on the characters of a text: four blocks of width 128, windows of 64.

    jaxbp train configs/shakespeare_gpt.py --config.data.path=FILE     # any text, such as tinyshakespeare

Two and a half minutes on two cores; on tinyshakespeare, whose last tenth is the test part, 1.627 nats a character.
"""

from jaxbp.config import Config, Run
from jaxbp.data import Text
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import GPT
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Text(length=64),
        model=GPT(outputs=97, width=128, depth=4, heads=4, context=64),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=2e-3, schedule=Cosine(warmup=0.05), clip_norm=1.0, weight_decay=0.1),
        run=Run(epochs=2, batch_size=12, steps_per_call=50),
    )
