"""Convolutional networks of the LeNet kind: stages of convolution and pooling, then dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxbp.compose import Chain
from jaxbp.core import Layer
from jaxbp.errors import InputError
from jaxbp.layers import AveragePool, Conv, MaxPool
from jaxbp.layers.activations import activation
from jaxbp.models.mlp import MLP
from jaxbp.typed import Count, Range

POOLS = {"max": MaxPool, "average": AveragePool}


@dataclass(frozen=True)
class CNN(MLP):
    """[N, H, W, C] -> [N, outputs]: convolution, pooling and activation for every stage, then the MLP.

    A rising activation may change places with max pooling; after it there are fewer numbers to go through.

    Args:
        channels: out of the convolution of each stage
        kernel: height and width of the kernels
        padding: zeros around the input of each stage, on every side
        pooling: over windows that do not overlap
        window: height and width of the pooled windows
    """

    channels: tuple[Count, ...] = (32, 64)
    kernel: Count = 5
    padding: tuple[Annotated[int, Range(0)], ...] = (0, 0)
    pooling: Literal["max", "average"] = "max"
    window: Count = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.padding) != len(self.channels):
            raise InputError(
                f"CNN: padding must have one number for each of the {len(self.channels)} channels, got {self.padding}"
            )

    def build(self) -> Layer:
        stages = [
            part
            for channels, zeros in zip(self.channels, self.padding, strict=True)
            for part in (
                Conv(
                    channels, (self.kernel,) * 2, padding=((zeros, zeros),) * 2, w_init=self.w_init, b_init=self.b_init
                ),
                POOLS[self.pooling]((self.window,) * 2),
                activation(self.activation),
            )
        ]
        return Chain((*stages, *super().build().layers))
