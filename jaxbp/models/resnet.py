"""Residual networks for small images (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxbp.compose import Chain, residual
from jaxbp.core import Layer
from jaxbp.layers import BatchNorm, BatchNormReLU, Conv, Dense, GlobalAveragePool, ReLU
from jaxbp.models.model import ModelConfig
from jaxbp.typed import Count, Fraction


@dataclass(frozen=True)
class ResNet(ModelConfig):
    """[N, H, W, C] -> [N, outputs]: stages of residual blocks; each but the first halves height and width.

    A block is two 3x3 convolutions with batch norm, its input added, and ReLU. Where a block changes the shape, the
    input goes through a 1x1 convolution with batch norm. Then the mean over all positions, and a dense layer.

    Args:
        outputs: units of the last layer
        channels: of each stage
        blocks: in each stage; the paper's networks of 20, 32, 44 and 56 layers have 3, 5, 7 and 9
        momentum: fraction of the running statistics that a step keeps
    """

    outputs: Count
    channels: tuple[Count, ...] = (16, 32, 64)
    blocks: Count = 1
    momentum: Fraction = 0.9

    def build(self) -> Layer:
        layers: list[Layer] = [self.convolution(self.channels[0]), BatchNormReLU(self.momentum)]
        channels_in = self.channels[0]
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                layers += [self.block(channels, strides, channels != channels_in or strides > 1), ReLU()]
                channels_in = channels
        return Chain((*layers, GlobalAveragePool(), Dense(self.outputs)))

    def block(self, channels: int, strides: int, changes_shape: bool) -> Layer:
        """Two convolutions and the shortcut around them."""
        norm = BatchNorm(self.momentum)
        first = self.convolution(channels, 3, strides)
        body = Chain((first, BatchNormReLU(self.momentum), self.convolution(channels), norm))
        shortcut = Chain((self.convolution(channels, 1, strides), norm)) if changes_shape else None
        return residual(body, shortcut)

    def convolution(self, channels: int, kernel: int = 3, strides: int = 1) -> Layer:
        """Without a bias: the batch norm that follows would remove it."""
        return Conv(channels, (kernel, kernel), strides, bias=False, w_init="he_normal")
