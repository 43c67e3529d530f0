"""A multilayer perceptron whose layers also hear the layer above, for rules that learn from steady states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.compose import Chain
from jaxbp.credit.relax import Relaxer
from jaxbp.credit.steady import FeedbackNet
from jaxbp.layers import Flatten
from jaxbp.models.model import ModelConfig
from jaxbp.typed import Count, NotNegative


@dataclass(frozen=True)
class FeedbackMLP(ModelConfig):
    """[N, ...] -> [N, outputs]: flatten, then a `FeedbackNet` that settles.

    Args:
        outputs: units of the last layer
        hidden: units of each hidden layer
        feedback: strength of what a layer hears from above; 0 makes it a perceptron
        activation: of the hidden layers
        relaxer: of the states and of their adjoint
    """

    outputs: Count
    hidden: tuple[Count, ...] = ()
    feedback: NotNegative = 0.3
    activation: Literal["sigmoid", "tanh"] = "sigmoid"
    relaxer: Relaxer = Relaxer(rate=0.5, tolerance=1e-4, steps=2000)

    def build(self) -> Chain:
        net = FeedbackNet((*self.hidden, self.outputs), self.feedback, self.activation, self.relaxer)
        return Chain((Flatten(), net))
