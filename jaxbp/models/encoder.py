"""Transformers whose positions all see each other, with one output for all of them: of sequences, and of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.compose import Chain
from jaxbp.core import Layer
from jaxbp.layers import ClassToken, Conv, Dense, Embedding, First, GlobalAveragePool, Reshape
from jaxbp.models.transformer import SMALL, Transformer
from jaxbp.typed import Count


@dataclass(frozen=True)
class Pooled(Transformer):
    """One output for all positions.

    Args:
        pooling: the mean of the last vectors, or the last one of a learned token that goes ahead of the first
    """

    pooling: Literal["mean", "token"] = "mean"

    def pooled(self) -> tuple[Layer, ...]:
        """[N, T, width] -> [N, outputs]."""
        ahead, pool = ((ClassToken(SMALL),), First()) if self.pooling == "token" else ((), GlobalAveragePool())
        return (*ahead, *self.placed, *self.blocks(causal=False), pool, Dense(self.outputs))


@dataclass(frozen=True)
class TransformerEncoder(Pooled):
    """[N, T, D], or classes [N, T], -> [N, outputs] (Vaswani et al. 2017, Devlin et al. 2019).

    Args:
        classes: of the inputs; None: inputs are vectors
    """

    classes: Count | None = None

    def build(self) -> Layer:
        into = Dense(self.width) if self.classes is None else Embedding(self.classes, self.width, SMALL)
        return Chain(into, *self.pooled())


@dataclass(frozen=True)
class ViT(Pooled):
    """Images [N, H, W, C] -> [N, outputs], from square patches (Dosovitskiy et al. 2021, arXiv 2010.11929).

    Args:
        patch: height and width of a patch
    """

    patch: Count = 4

    def build(self) -> Layer:
        patches = Conv(self.width, (self.patch, self.patch), self.patch, "VALID")
        return Chain(patches, Reshape((-1, self.width)), *self.pooled())
