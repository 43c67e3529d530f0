"""Gain backpropagation: each layer's step is its gradient times a matrix gain, as in recursive least squares.

    A' = forgetting A + X^T X,   A = 1 / start at first     X [N, I + 1]: sqrt(weight_n) (x_n, 1), x the layer's inputs
    W' = W - rate dW A'^-1                                  dW [O, I + 1] = sum_n weight_n dz_n (x_n, 1)

All units of a layer have the same inputs and share the gain A^-1. (Gawthrop & Sbarbaro 1990, International Journal of
Control 52; here the regressor of a unit is its layer's inputs.) For one linear layer and SquaredError("half_sum") it is
recursive least squares: after every step W is the least-squares solution of all batches so far, with |W - first W|^2 /
start added. A is kept, not its inverse: it only grows, so nothing cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import cho_factor, cho_solve

from jaxbp.backprop import item_weights
from jaxbp.core import Batch, Context, Layer, PyTree, path_name, shapes_text
from jaxbp.errors import InputError
from jaxbp.layers import Dense
from jaxbp.optim.config import OptimizerConfig
from jaxbp.optim.objective import Objective
from jaxbp.rules import Rule
from jaxbp.typed import Positive, Range


@dataclass(frozen=True)
class GainBackpropagation(OptimizerConfig):
    """A matrix gain for every Dense. Exact, as recursive least squares, for one linear layer.

    For nets whose only weights are Dense, each used once for every example. Raises InputError for others.

    Args:
        learning_rate: share of the step; 1 in least squares
        start: the gain before the first step is `start` times the identity; a large one forgets the first weights
        forgetting: below 1 old batches count less and less
    """

    learning_rate: Positive = 1.0
    start: Positive = 1.0
    forgetting: Annotated[float, Range(0, 1, "(]")] = 1.0

    def build(self, steps: int, objective: Objective) -> optax.GradientTransformationExtraArgs:
        is_layer = lambda node: isinstance(node, dict) and any(hasattr(leaf, "shape") for leaf in node.values())

        def first(path: tuple, layer: dict[str, jax.Array]) -> jax.Array:
            if not is_layer(layer) or not {"w"} <= layer.keys() <= {"w", "b"} or layer["w"].ndim != 2:
                shapes = shapes_text({path_name(path): layer} if path else layer)
                raise InputError(
                    f"GainBackpropagation is defined for Dense, each with w [O, I] of its own, got {shapes}"
                )
            return jnp.eye(layer["w"].shape[1] + ("b" in layer), dtype=layer["w"].dtype) / self.start

        def init(params: PyTree) -> PyTree:
            return jax.tree_util.tree_map_with_path(first, params, is_leaf=is_layer)

        def update(
            grads: PyTree, state: PyTree, params: PyTree, *, batch: Batch, ctx: Context, **_: object
        ) -> tuple[PyTree, PyTree]:
            inputs, weight = layer_inputs(objective.model, params, batch, ctx)

            def grown(a: jax.Array, layer: PyTree, x: jax.Array) -> jax.Array:
                ones = jnp.ones((len(x), a.shape[0] - x.shape[1]), x.dtype)
                rows = jnp.sqrt(weight)[:, None] * jnp.concatenate([x, ones], 1)
                return self.forgetting * a + jnp.einsum("ni,nj->ij", rows, rows).astype(a.dtype)

            def step(layer: dict[str, jax.Array], a: jax.Array) -> dict[str, jax.Array]:
                columns = [layer["w"], *([layer["b"][:, None]] if "b" in layer else [])]
                scaled = -self.learning_rate * cho_solve(cho_factor(a), jnp.concatenate(columns, 1).T).T
                size = layer["w"].shape[1]
                return {"w": scaled[:, :size]} | ({"b": scaled[:, size]} if "b" in layer else {})

            state = jax.tree.map(grown, state, params, inputs)
            return jax.tree.map(step, grads, state, is_leaf=is_layer), state

        return optax.GradientTransformationExtraArgs(init, update)


def layer_inputs(model: Layer, params: PyTree, batch: Batch, ctx: Context) -> tuple[PyTree, jax.Array]:
    """-> (at every Dense its inputs [N, I], the weight of each example [N]). Raises InputError for other weights."""

    def take(layer: Layer, params: PyTree, cache: PyTree, dy: PyTree) -> tuple[PyTree, PyTree]:
        if params and not (isinstance(layer, Dense) and cache.ndim == 2):
            shape = f" of inputs {list(cache.shape)}" if isinstance(layer, Dense) else ""
            raise InputError(f"GainBackpropagation is defined for Dense of inputs [N, I], got {layer}{shape}")
        return layer.backward(params, cache, dy)[0], cache if params else {}

    def twice(x: jax.Array, other: jax.Array) -> jax.Array:
        raise InputError(
            "GainBackpropagation is defined for weights that are used once in a pass, and some are used again"
        )

    x, ctx = ctx.counted(batch)
    y, cache = model.forward(params, x, ctx)
    return model.sweep(Rule(take, merge=twice), params, cache, jnp.zeros_like(y))[1], item_weights(batch, y)
