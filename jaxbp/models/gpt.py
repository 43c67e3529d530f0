"""A transformer that predicts the next class of a sequence (Radford et al. 2019): causal blocks in one scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.compose import Chain, Graph, Node
from jaxbp.core import Layer
from jaxbp.errors import InputError
from jaxbp.layers import Dense, Embedding
from jaxbp.models.transformer import SMALL, Transformer


@dataclass(frozen=True)
class GPT(Transformer):
    """Classes [N, T] -> [N, T, outputs]. No output depends on a later input.

    Args:
        outputs: classes, of the inputs too
        head: weights and bias of its own, or the embedding's weights and no bias (Press & Wolf 2017, arXiv 1608.05859)
    """

    head: Literal["free", "tied"] = "free"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "tied" and self.keep == "inverse":
            raise InputError("GPT: keep='inverse' has vectors of twice the embedding's width, so head must be 'free'")

    def build(self) -> Layer:
        embedding = Embedding(self.outputs, self.width, SMALL)
        body = (*self.placed, *self.blocks(causal=True))
        if self.head == "free":
            return Chain(embedding, *body, Dense(self.outputs))
        head = Node("head", Dense(self.outputs, bias=False), "body", shares="embedding")
        return Graph((Node("embedding", embedding, "x"), Node("body", Chain(body), "embedding"), head))
