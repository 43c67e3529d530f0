"""Multilayer perceptron: dense layers with an activation between them."""
from __future__ import annotations

from dataclasses import dataclass

from jaxbp.compose import Chain
from jaxbp.core import Layer
from jaxbp.inits import initializer
from jaxbp.layers import Dense, Dropout, Flatten
from jaxbp.layers.activations import activation
from jaxbp.models.model import ModelConfig
from jaxbp.typed import Count, Fraction


@dataclass(frozen=True)
class MLP(ModelConfig):
    """[N, ...] -> [N, outputs]: flatten, then dense, activation and dropout for every hidden width, then dense."""

    outputs: Count  # units of the last layer
    hidden: tuple[Count, ...] = ()  # units of each hidden layer; none makes a linear model
    activation: str = "relu"  # after every hidden layer
    output_activation: str = "identity"  # after the last; identity where the loss takes logits
    dropout: Fraction = 0.0  # of the hidden units dropped in training
    w_init: str = "he_normal"  # initializer of the weights
    b_init: str = "zeros"  # initializer of the biases

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("activation", "output_activation"):
            activation(getattr(self, key), key)
        for key in ("w_init", "b_init"):
            initializer(getattr(self, key), key)

    def build(self) -> Layer:
        dense = lambda width: Dense(width, w_init=self.w_init, b_init=self.b_init)
        drop = (Dropout(self.dropout),) if self.dropout else ()
        hidden = [part for width in self.hidden for part in (dense(width), activation(self.activation), *drop)]
        last = () if self.output_activation == "identity" else (activation(self.output_activation),)
        return Chain((Flatten(), *hidden, dense(self.outputs), *last))
