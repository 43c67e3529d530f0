"""The adding problem, two numbers to add over 100 steps: a transformer that reads all steps at once.

jaxbp train configs/adding_encoder.py
"""

from jaxbp.config import Config, Run
from jaxbp.data import Adding
from jaxbp.losses import SquaredError
from jaxbp.models import TransformerEncoder
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Adding(length=100, examples=20_000),
        model=TransformerEncoder(outputs=1, width=32, depth=2, heads=2, context=101, pooling="token"),
        loss=SquaredError(scale="mean"),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.0, schedule=Cosine(warmup=0.1), clip_norm=1.0),
        run=Run(epochs=5, batch_size=64),
    )
