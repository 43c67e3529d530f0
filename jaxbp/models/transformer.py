"""What transformers share: blocks of attention and two dense layers, each with a norm and its input added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.compose import Chain, Stack, parallel, residual
from jaxbp.core import Layer
from jaxbp.errors import InputError
from jaxbp.inits import Normal
from jaxbp.layers import GELU, Attention, Dense, Dropout, Identity, LayerNorm, Positions, SinusoidalPositions
from jaxbp.models.model import ModelConfig
from jaxbp.reversible import Reversible
from jaxbp.typed import Count, Fraction

SMALL = Normal(0.02)  # of tables and patches: Radford et al. 2019


@dataclass(frozen=True)
class Transformer(ModelConfig):
    """The blocks, and what stands around them in every transformer.

    Args:
        outputs: units of the last layer
        width: of the vectors between the blocks
        depth: blocks
        heads: of every attention; they divide the width
        context: positions that are learned, at least those of a sequence; unused where positions are not learned
        positions: vectors that are added, learned or of sines; or rotary turns of queries and keys
        norm: before each part of a block, and once at the end; or after each sum, as in Vaswani et al. 2017
        gelu: exact, or its form by tanh
        dropout: fraction dropped of the vectors, of the attention's weights, and of what each block adds
        keep: memory between the passes, see Stack; inverse makes the blocks reversible, on two streams of vectors
    """

    outputs: Count
    width: Count = 128
    depth: Count = 4
    heads: Count = 4
    context: Count = 128
    positions: Literal["learned", "sinusoidal", "rotary"] = "learned"
    norm: Literal["before", "after"] = "before"
    gelu: Literal["exact", "tanh"] = "exact"
    dropout: Fraction = 0.0
    keep: Literal["all", "input", "sqrt", "inverse"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise InputError(f"{type(self).__name__}: heads must divide width={self.width}, got {self.heads}")
        if self.keep == "inverse" and self.norm == "after":
            raise InputError(f"{type(self).__name__}: keep='inverse' needs norm='before': a norm has no inverse")

    def blocks(self, causal: bool) -> tuple[Layer, ...]:
        """[N, T, width] -> the same shape; twice the width where the blocks are reversible."""
        rotary = 10_000.0 if self.positions == "rotary" else None
        attention = (Attention(self.heads, causal=causal, rotary=rotary, dropout=self.dropout), *self.drop)
        dense = (Dense(4 * self.width), GELU(self.gelu == "tanh"), Dense(self.width), *self.drop)
        first, second = Chain(LayerNorm(), *attention), Chain(LayerNorm(), *dense)
        if self.keep == "inverse":
            return parallel(Identity(), Identity()), Reversible(first, second, self.depth), LayerNorm()
        if self.norm == "before":
            return Stack(Chain(residual(first), residual(second)), self.depth, self.keep), LayerNorm()
        summed = Chain(residual(Chain(attention)), LayerNorm(), residual(Chain(dense)), LayerNorm())
        return (Stack(summed, self.depth, self.keep),)

    @property
    def drop(self) -> tuple[Layer, ...]:
        """The dropout of vectors, if there is any."""
        return (Dropout(self.dropout),) if self.dropout else ()

    @property
    def placed(self) -> tuple[Layer, ...]:
        """What adds positions to [N, T, width], if anything does; then the dropout."""
        added = {"learned": Positions(self.context, SMALL), "sinusoidal": SinusoidalPositions()}
        return (added[self.positions], *self.drop) if self.positions in added else self.drop
