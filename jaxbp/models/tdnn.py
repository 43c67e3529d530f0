"""Time-delay networks: a perceptron that sees the last few steps, at every step (Waibel et al. 1989)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxbp.compose import Chain
from jaxbp.core import Layer
from jaxbp.layers import Dense, TappedDelay
from jaxbp.layers.activations import activation
from jaxbp.models.model import ModelConfig
from jaxbp.typed import Count


@dataclass(frozen=True)
class TDNN(ModelConfig):
    """[N, T, D] -> [N, T, outputs]: a tapped delay line, then dense layers on every step.

    Args:
        outputs: units of the last layer
        taps: the number of steps that are seen, the present one included
        hidden: units of each hidden layer
        activation: after every hidden layer
    """

    outputs: Count
    taps: Count = 2
    hidden: tuple[Count, ...] = (32,)
    activation: str = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.activation)

    def build(self) -> Layer:
        layers: list[Layer] = [TappedDelay(self.taps)]
        for width in self.hidden:
            layers += [Dense(width), activation(self.activation)]
        return Chain((*layers, Dense(self.outputs)))
