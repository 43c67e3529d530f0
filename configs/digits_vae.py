"""A variational autoencoder of the handwritten digits: 64-128 tanh units, a code of 8 normal numbers, and back.

jaxbp train configs/digits_vae.py

"""

from jaxbp.compose import Graph, Node
from jaxbp.config import Config, Run
from jaxbp.data import Embedded, Reconstruction
from jaxbp.layers import Concatenate, Dense, Gaussian, Tanh
from jaxbp.optim import AdamW, Cosine
from jaxbp.variational import NegativeELBO


def get_config() -> Config:
    nodes = (
        Node("encode", Dense(128), ("x",)),
        Node("bend", Tanh(), ("encode",)),
        Node("code", Dense(16), ("bend",)),
        Node("draw", Gaussian(), ("code",)),
        Node("decode", Dense(128), ("draw",)),
        Node("curve", Tanh(), ("decode",)),
        Node("pixels", Dense(64), ("curve",)),
        Node("out", Concatenate(), ("pixels", "code")),
    )
    return Config(
        data=Reconstruction(Embedded("digits", scaling="min_max")),
        model=Graph(nodes),
        loss=NegativeELBO(latent=8),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.0, schedule=Cosine(warmup=0.05)),
        run=Run(epochs=60, batch_size=64, evaluate_every=10),
    )
