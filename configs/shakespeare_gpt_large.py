"""A GPT on the characters of a text: four blocks of width 192, windows of 128, rotary positions.

    jaxbp train configs/shakespeare_gpt_large.py --config.data.path=FILE     # any text, such as tinyshakespeare

Some 20 minutes on two cores. With --config.run.epochs=15, tinyshakespeare's last tenth had 1.527 nats a character after
5 epochs (10 minutes) and its least, 1.452, after 9 (18 minutes); two cores of an Intel Xeon, jax 0.10.2, 2026-11-26.
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
