"""Recurrent networks: layers of one cell over time, then a dense layer for every step or for the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.compose import Chain
from jaxbp.core import Layer
from jaxbp.layers import (
    ContinuousCell,
    Dense,
    Dropout,
    Embedding,
    GRUCell,
    LSTMCell,
    Recurrent,
    SimpleCell,
    SpikingCell,
)
from jaxbp.models.model import ModelConfig
from jaxbp.typed import Count, Fraction

CELLS = {"simple": SimpleCell, "lstm": LSTMCell, "gru": GRUCell, "continuous": ContinuousCell, "spiking": SpikingCell}
Cell = Literal["simple", "lstm", "gru", "continuous", "spiking"]


@dataclass(frozen=True)
class RNN(ModelConfig):
    """[N, T, D], or classes [N, T] with an embedding, -> [N, T, outputs], or [N, outputs] of the last step.

    Args:
        outputs: units of the last layer
        hidden: units of each recurrent layer
        cell: of every recurrent layer
        embedding: width of the vectors for inputs that are classes, as many as outputs; None: inputs are vectors
        output: whether every step has an output, or only the last
        carry: each batch continues where the last one ended, also the first of an epoch: for text in streams
        keep: memory between the passes, see Recurrent
        truncate: steps after which the delta is cut; None: never within a batch
        dropout: fraction dropped of the inputs of the dense layer, and of all recurrent layers but the first
        wh_init: initializer of the recurrent weights
    """

    outputs: Count
    hidden: tuple[Count, ...] = (128,)
    cell: Cell = "lstm"
    embedding: Count | None = None
    output: Literal["sequence", "last"] = "sequence"
    carry: bool = False
    keep: Literal["all", "states", "sqrt"] = "all"
    truncate: Count | None = None
    dropout: Fraction = 0.0
    wh_init: str = "orthogonal"

    def build(self) -> Layer:
        layers: list[Layer] = [Embedding(self.outputs, self.embedding)] if self.embedding else []
        for i, width in enumerate(self.hidden):
            cell = CELLS[self.cell](width, wh_init=self.wh_init)
            output = self.output if i == len(self.hidden) - 1 else "sequence"
            layers.append(Recurrent(cell, output=output, keep=self.keep, carry=self.carry, truncate=self.truncate))
            if self.dropout:
                layers.append(Dropout(self.dropout))
        return Chain((*layers, Dense(self.outputs)))
