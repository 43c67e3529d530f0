"""Direct feedback alignment: the error at the output reaches every layer at once (Nøkland 2016, arXiv 1609.01596).

backward   dx_l = e B_l          in place of W_l^T dy_l: e [N, O] the loss's own delta, B_l [O, *shape of x_l]
           dW_l = dy_l x_l^T     as in backpropagation, with dy_l sent back through what lies between two links
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import jax
import jax.numpy as jnp

from jaxbp.core import Context, Layer, PyTree, add, output_spec
from jaxbp.credit.config import Swept
from jaxbp.credit.links import FEED_FORWARD, link_names, refuse, traced_sweep
from jaxbp.errors import InputError
from jaxbp.neural_ode import NeuralODE
from jaxbp.rules import Rule
from jaxbp.typed import Positive

WHY = "the delta of a time step comes from the step after it"


@dataclass(frozen=True)
class DirectFeedbackAlignment(Swept):
    """The delta below every link is a fixed random projection of the error at the output.

    Exact for the last link weight. Of the others it has the derivative of the activation at the layer itself right,
    and nothing of the layers above. Raises InputError for NeuralODE, which would hear the error at each evaluation.

    Args:
        scale: standard deviation of B times the square root of the number of outputs
    """

    scale: Positive = 1.0

    def check(self, model: Layer) -> None:
        refuse(type(self).__name__, model, (NeuralODE,), "each of its evaluations would get the whole error")

    def init_state(self, key: jax.Array, params: PyTree, model: Layer, spec: PyTree) -> PyTree:
        y = output_spec(model, spec)
        if y.ndim != 2:
            raise InputError(f"DirectFeedbackAlignment needs outputs [N, O], and the model has {list(y.shape)}")

        def take(layer: Layer, params: PyTree, x: PyTree, dy: PyTree) -> PyTree:
            if not link_names(type(self).__name__, layer, params, FEED_FORWARD, WHY):
                return {}
            return {"feedback": jnp.zeros((y.shape[-1], *x.shape[1:]), params["w"].dtype)}

        leaves, tree = jax.tree.flatten(traced_sweep(take, model, params, spec))
        keys = jax.random.split(key, max(1, len(leaves)))
        size = self.scale / sqrt(y.shape[-1])
        drawn = [size * jax.random.normal(k, b.shape, b.dtype) for k, b in zip(keys, leaves, strict=False)]
        return jax.tree.unflatten(tree, drawn)

    def backward(
        self, model: Layer, params: PyTree, cache: PyTree, dy: jax.Array, kept: PyTree, ctx: Context
    ) -> tuple[PyTree, PyTree]:
        error = dy

        def take(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
            own = {name: p for name, p in params.items() if name != "feedback"}
            dx, grads = layer.backward(own, cache, dy)
            if "feedback" in params:
                dx = jnp.einsum("no,o...->n...", error, params["feedback"].astype(error.dtype))
            return dx, grads

        return model.sweep(Rule(take, merge=add), beside(params, kept), cache, dy)[1], kept


def beside(params: PyTree, kept: PyTree) -> PyTree:
    """params with the leaves of `kept` beside those of the same layer."""
    if not isinstance(kept, dict):
        return kept
    both = {name: beside(params[name], child) if name in params else child for name, child in kept.items()}
    return params | both
