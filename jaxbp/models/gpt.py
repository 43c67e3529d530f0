"""A transformer that predicts the next class of a sequence (Radford et al. 2019): pre-norm blocks in one scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.compose import Chain, Stack, residual
from jaxbp.core import Layer
from jaxbp.errors import InputError
from jaxbp.inits import Normal
from jaxbp.layers import GELU, Attention, Dense, Dropout, Embedding, LayerNorm, Positions
from jaxbp.models.model import ModelConfig
from jaxbp.typed import Count, Fraction


@dataclass(frozen=True)
class GPT(ModelConfig):
    """Classes [N, T] -> [N, T, outputs]. No output depends on a later input.

    Args:
        outputs: classes, of the inputs too
        width: of the vectors between the blocks
        depth: blocks
        heads: of every attention; they divide the width
        context: positions that are learned, at least those of a sequence; unused where positions are rotary
        positions: learned vectors that are added, or rotary turns of queries and keys
        dropout: fraction dropped of the vectors, of the attention's weights, and of what each block adds
        keep: memory between the passes, see Stack
    """

    outputs: Count
    width: Count = 128
    depth: Count = 4
    heads: Count = 4
    context: Count = 128
    positions: Literal["learned", "rotary"] = "learned"
    dropout: Fraction = 0.0
    keep: Literal["all", "input", "sqrt"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InputError(f"GPT: heads must divide width={self.width}, got {self.heads}")

    def build(self) -> Layer:
        drop = (Dropout(self.dropout),) if self.dropout else ()
        small = Normal(0.02)
        rotary = 10_000.0 if self.positions == "rotary" else None
        attention = Attention(self.heads, causal=True, rotary=rotary, dropout=self.dropout)
        block = Chain(
            residual(Chain(LayerNorm(), attention, *drop)),
            residual(Chain(LayerNorm(), Dense(4 * self.width), GELU(), Dense(self.width), *drop)),
        )
        learned = (Positions(self.context, small),) if self.positions == "learned" else ()
        stack = Stack(block, self.depth, self.keep)
        embedding = Embedding(self.outputs, self.width, small)
        return Chain(embedding, *learned, *drop, stack, LayerNorm(), Dense(self.outputs))
