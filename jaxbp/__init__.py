"""jaxbp: neural networks in JAX with backpropagation written by hand, every backward pass proved equal to jax.grad."""

import importlib
from typing import TYPE_CHECKING

from jaxbp import environment, layers  # noqa: F401  the environment first: it imports JAX
from jaxbp.backprop import Result, as_function, batch, value_and_grad
from jaxbp.compose import Chain, Graph, Node, Stack, bidirectional, parallel, residual
from jaxbp.core import Case, Context, Layer, Shared, Static, cast, output_spec, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors, GroupedFactors
from jaxbp.layers import *  # noqa: F403  their names are jaxbp.layers.__all__
from jaxbp.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Loss,
    MulticlassHinge,
    Penalty,
    SoftmaxCrossEntropy,
    SquaredError,
)
from jaxbp.neural_ode import NeuralODE
from jaxbp.parameters import load_parameters, save_parameters
from jaxbp.reversible import Reversible
from jaxbp.rules import Rule
from jaxbp.summary import Summary, summary
from jaxbp.variational import NegativeELBO

if TYPE_CHECKING:
    from jaxbp import (
        analysis,
        check,
        config,
        credit,
        data,
        inits,
        losses,
        models,
        ops,
        optim,
        rules,
        sensing,
        structures,
        training,
    )
    from jaxbp.training.loop import train
    from jaxbp.training.run import load

__version__ = "0.1.0"

__all__ = [
    "AbsoluteError",
    "BinaryCrossEntropy",
    "Case",
    "Chain",
    "Context",
    "Factors",
    "Graph",
    "GroupedFactors",
    "Huber",
    "InputError",
    "Layer",
    "Loss",
    "MulticlassHinge",
    "NegativeELBO",
    "NeuralODE",
    "Node",
    "Penalty",
    "Result",
    "Reversible",
    "Rule",
    "Shared",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Stack",
    "Static",
    "Summary",
    "analysis",
    "as_function",
    "batch",
    "bidirectional",
    "cast",
    "check",
    "config",
    "credit",
    "data",
    "inits",
    "layers",
    "load",
    "load_parameters",
    "losses",
    "models",
    "ops",
    "optim",
    "output_spec",
    "parallel",
    "residual",
    "rules",
    "save_parameters",
    "sensing",
    "shaped",
    "structures",
    "summary",
    "train",
    "training",
    "value_and_grad",
]
__all__ += layers.__all__


LATE = {
    "load": "jaxbp.training.run",
    "train": "jaxbp.training.loop",
}  # what needs more than JAX and NumPy, and its module


if not TYPE_CHECKING:  # else every misspelt name would be one

    def __getattr__(name: str) -> object:
        """The names of LATE and the other submodules are imported when they are asked for."""
        if name in LATE:
            return getattr(importlib.import_module(LATE[name]), name)
        if name in __all__:
            return importlib.import_module(f"jaxbp.{name}")
        raise AttributeError(f"module 'jaxbp' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
