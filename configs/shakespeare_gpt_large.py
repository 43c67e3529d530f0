"""A GPT on the characters of a text: four blocks of width 192, windows of 128, rotary positions.

jaxbp train configs/shakespeare_gpt_large.py --config.data.path=FILE     # any text, such as tinyshakespeare
"""

from jaxbp.config import Config, Run
from jaxbp.data import Text
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import GPT
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Text(length=128),
        model=GPT(outputs=97, width=192, depth=4, heads=3, positions="rotary"),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=2e-3, schedule=Cosine(warmup=0.05), clip_norm=1.0, weight_decay=0.1),
        run=Run(epochs=10, batch_size=12, steps_per_call=50),
    )
