"""jaxbp: neural networks in JAX with backpropagation written by hand, every backward pass proved equal to jax.grad."""
from jaxbp.backprop import Result, Rule, as_function, delta, example_gradients, factors, gradient, value_and_grad
from jaxbp.compose import Chain, Graph, Node, Stack, bidirectional, parallel, residual
from jaxbp.core import Case, Context, Layer, Shared, Static, cast, output_spec, shaped
from jaxbp.errors import InputError
from jaxbp.layers import *  # noqa: F403  the layers name themselves
from jaxbp.layers import __all__ as _layers
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
from jaxbp.outer import GroupedOuter, Outer

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """jaxbp.load, the model of a run folder, is imported when asked for: it needs optax and the training extra."""
    if name == "load":
        from jaxbp.train.run import load

        return load
    raise AttributeError(f"module 'jaxbp' has no attribute '{name}'")


__all__ = [
    "AbsoluteError", "BinaryCrossEntropy", "Case", "Chain", "Context", "Graph", "GroupedOuter", "Huber",
    "InputError", "Layer", "Loss", "MulticlassHinge", "Node", "Outer", "Penalty", "Result", "Rule", "Shared",
    "SoftmaxCrossEntropy", "SquaredError", "Stack", "Static", "as_function", "bidirectional", "cast", "delta",
    "example_gradients", "factors", "gradient", "output_spec", "parallel", "residual", "shaped",
    "value_and_grad", *_layers,
]
