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
    """[N, ...] -> [N, outputs]: flatten, then dense, activation and dropout for every hidden width, then dense.

    Args:
        outputs: units of the last layer
        hidden: units of each hidden layer; none makes a linear model
        activation: after every hidden layer
        output_activation: after the last layer; identity where the loss takes logits
        dropout: fraction of the hidden units dropped in training
        w_init: initializer of the weights
        b_init: initializer of the biases
    """

    outputs: Count
    hidden: tuple[Count, ...] = ()
    activation: str = "relu"
    output_activation: str = "identity"
    dropout: Fraction = 0.0
    w_init: str = "he_normal"
    b_init: str = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("activation", "output_activation"):
            activation(getattr(self, key), key)
        for key in ("w_init", "b_init"):
            initializer(getattr(self, key), key)

    def build(self) -> Chain:
        dense = lambda width: Dense(width, w_init=self.w_init, b_init=self.b_init)
        layers: list[Layer] = [Flatten()]
        for width in self.hidden:
            layers += [dense(width), activation(self.activation)]
            if self.dropout:
                layers.append(Dropout(self.dropout))
        layers.append(dense(self.outputs))
        if self.output_activation != "identity":
            layers.append(activation(self.output_activation))
        return Chain(tuple(layers))
