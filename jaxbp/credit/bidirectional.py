"""Bidirectional backpropagation: one net that maps x to y forward, and y back to x through the same weights.

    forward    a_l = f(W_l a_l-1 + b_l)                 a_0 = x,  a_L without f
    backward   c_l-1 = f(W_l^T c_l + d_l)               c_L = y,  c_0 without f
    E = E_forward(a_L, y) + E_backward(c_0, x)          dE/dW_l = dE_forward/dW_l + (dE_backward/dW_l^T)^T

(Adigun & Kosko 2020, IEEE Transactions on Systems, Man, and Cybernetics 50.) Each way is a chain of its own, whose
backward pass is the chain's. One hidden layer of 2^n units represents every permutation of n bits, and its inverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result, value_and_grad
from jaxbp.compose import Chain
from jaxbp.core import Batch, Layer, PyTree, require
from jaxbp.inits import Initializer, weight_and_bias
from jaxbp.layers import Dense
from jaxbp.layers.activations import activation
from jaxbp.losses import Loss


@dataclass(frozen=True)
class Bidirectional:
    """The net of the widths (I, ..., O), with params {"00": {"w", "b", "back"}, ...}; "back" is d of that link.

    Every width is at least 1, and there are at least two. activation: of the hidden layers, both ways.
    """

    widths: tuple[int, ...]
    activation: str = "sigmoid"
    w_init: str | Initializer = "glorot_uniform"

    def __post_init__(self) -> None:
        require(self, "widths", len(self.widths) >= 2 and min(self.widths) >= 1, "two or more sizes of at least 1")
        activation(self.activation)

    def init(self, key: jax.Array) -> PyTree:
        """Parameters, with biases of zero."""
        params = {}
        for k, (i, o) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            drawn = weight_and_bias(jax.random.fold_in(key, k), (o, i), self.w_init, "zeros")
            params[f"{k:02d}"] = drawn | {"back": jnp.zeros(i, jnp.float32)}
        return params

    def ways(self) -> tuple[Chain, Chain]:
        """The chains from x to y and from y to x."""
        return self._chain(self.widths[1:]), self._chain(self.widths[-2::-1])

    def _chain(self, widths: tuple[int, ...]) -> Chain:
        layers: list[Layer] = []
        for width in widths:
            layers += [Dense(width), activation(self.activation)]
        return Chain(tuple(layers[:-1]))

    def params_of(self, params: PyTree) -> tuple[PyTree, PyTree]:
        """The parameters of the two chains."""
        links = [params[name] for name in sorted(params)]
        forward = [{"w": link["w"], "b": link["b"]} for link in links]
        back = [{"w": link["w"].T, "b": link["back"]} for link in reversed(links)]
        tree = lambda way, weights: {name: weights[i // 2] if i % 2 == 0 else {} for i, name, _ in way.named()}
        there, back_again = self.ways()
        return tree(there, forward), tree(back_again, back)

    def value_and_grad(self, loss: Loss, loss_back: Loss) -> Callable[[PyTree, Batch], Result]:
        """(params, batch) -> Result of E; its output is the pair (y of the batch's x, x of the batch's y)."""
        passes = [value_and_grad(way, of_way) for way, of_way in zip(self.ways(), (loss, loss_back), strict=True)]

        def run(params: PyTree, batch: Batch) -> Result:
            turned = batch | {"x": batch["y"], "y": batch["x"]}
            there, back = (
                one_way(own, rows)
                for one_way, own, rows in zip(passes, self.params_of(params), (batch, turned), strict=True)
            )
            of_links = lambda grads: [grads[name] for name in sorted(grads) if grads[name]]
            both = zip(sorted(params), of_links(there.grads), reversed(of_links(back.grads)), strict=True)
            grads = {name: {"w": f["w"] + b["w"].T, "b": f["b"], "back": b["b"]} for name, f, b in both}
            return Result(there.value + back.value, grads, None, (there.output, back.output))

        return run
