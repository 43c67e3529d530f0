"""Handwritten digits of scikit-learn (1797 images of 8 x 8), a small vision transformer on patches of 2 x 2.

jaxbp train configs/digits_vit.py
"""

from jaxbp.config import Config, Run
from jaxbp.data import Embedded
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import ViT
from jaxbp.optim import AdamW, Cosine


def get_config() -> Config:
    return Config(
        data=Embedded("digits", image=True, scaling="min_max"),
        model=ViT(outputs=10, width=64, depth=3, heads=4, context=16, patch=2, dropout=0.1),
        loss=SoftmaxCrossEntropy(),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.05, schedule=Cosine(warmup=0.1)),
        run=Run(epochs=60, batch_size=64),
    )
