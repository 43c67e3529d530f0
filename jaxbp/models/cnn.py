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

    The activation follows the pooling, where fewer numbers are left; an increasing one commutes with max pooling.

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

    def build(self) -> Chain:
        stages: list[Layer] = []
        for channels, zeros in zip(self.channels, self.padding, strict=True):
            kernel = (self.kernel, self.kernel)
            padding = ((zeros, zeros), (zeros, zeros))
            stages += [
                Conv(channels, kernel, padding=padding, w_init=self.w_init, b_init=self.b_init),
                POOLS[self.pooling]((self.window, self.window)),
                activation(self.activation),
            ]
        return Chain((*stages, *super().build().layers))
