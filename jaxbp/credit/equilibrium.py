"""Learning from two steady states: equilibrium propagation and contrastive Hebbian learning.

Both compare what two ends of a link do together, free and with the output pulled to its target:

    dC/dw_k = -feedback^(k - L) (pulled s_k s_k-1 - free s_k s_k-1) / nudge          k = 1 ... L

Equilibrium propagation pulls by a force, the output's s_L - nudge dC/ds_L (Scellier & Bengio 2017, arXiv 1602.05179);
pulled both ways, by +nudge and -nudge, the error falls with the square of the nudge (Laborieux et al. 2021, arXiv
2006.03824). Contrastive Hebbian learning holds the output at the target itself, and is backpropagation for weak
feedback (Xie & Seung 2003, Neural Computation 15). Both need a `FeedbackNet`, which settles in a minimum of an energy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, entry, state_after
from jaxbp.credit.config import Carried, Credit, example_weights, parted
from jaxbp.credit.steady import FeedbackNet, States
from jaxbp.errors import InputError
from jaxbp.losses import Loss, SquaredError
from jaxbp.rules import Rule
from jaxbp.typed import Positive

Delta = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Contrast(Credit):
    """The base of rules that compare a free steady state with a pulled one."""

    @abstractmethod
    def pull(self, delta: Delta, net: FeedbackNet, params: PyTree, x: jax.Array, free: States) -> list:
        """[(factor, pulled states), ...]: the derivative of each link's product is their sum of factor times product.

        delta(y) is the loss's own for each item, of weight one.
        """
        raise NotImplementedError

    def check(self, model: Layer, loss: Loss) -> None:
        """Raises InputError for a loss that the rule cannot pull by."""

    def gradient(self, model: Layer, loss: Loss) -> Callable[..., Result]:
        self.check(model, loss)

        def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
            own, kept = parted(ctx.state)
            x, ctx = replace(ctx, state=own).counted(batch)
            target = entry(batch, "y")
            y, cache = model.forward(params, x, ctx)
            weight = example_weights(type(self).__name__, batch, y)
            value, _ = loss.forward(y, target, weight)
            counts = (weight != 0).astype(weight.dtype)
            delta = lambda y: loss.backward(loss.forward(y, target, counts)[1])

            def take(layer: Layer, params: PyTree, cache: PyTree, dy: jax.Array) -> tuple[PyTree, PyTree]:
                if isinstance(layer, FeedbackNet):
                    return dy, self._contrast(delta, layer, params, cache, weight)
                if params:
                    raise InputError(f"{type(self).__name__} is defined for a FeedbackNet alone, got {layer}")
                return dy, {}

            grads = model.sweep(Rule(take), params, cache, y)[1]
            return Result(value, grads, Carried(state_after(model, ctx, cache), kept), y)

        return run

    def _contrast(self, delta: Delta, net: FeedbackNet, params: PyTree, cache: PyTree, weight: jax.Array) -> PyTree:
        if not net.feedback:
            raise InputError(f"{type(self).__name__} needs feedback above 0, got {net}")
        x, _, free = cache
        top = len(params)
        total = jax.tree.map(jnp.zeros_like, params)
        for factor, states in self.pull(delta, net, params, x, free):
            for k, name in enumerate(sorted(params)):
                scale = factor * net.feedback ** (k + 1 - top)
                above = scale * weight[:, None] * states[k]
                below = (x, *states)[k]
                total[name]["w"] += jnp.einsum("no,ni->oi", above, below).astype(params[name]["w"].dtype)
                total[name]["b"] += jnp.sum(above, 0).astype(params[name]["b"].dtype)
        return total


def pulled(net: FeedbackNet, params: PyTree, x: jax.Array, free: States, pull: Callable) -> States:
    """The steady state, from the free one on, of the net whose output is pull(output now, the free net's next one)."""

    motion = net.motion(params, x, Context())

    def step(states: States) -> States:
        after = motion(states)
        return (*after[:-1], pull(states[-1], after[-1]))

    return net.relaxer.settle(step, free).or_nan()


@dataclass(frozen=True)
class EquilibriumPropagation(Contrast):
    """A small force pulls the output; what the links' ends then do together is the gradient.

    Exact in the limit of a small nudge: its error falls with the nudge (one side) or with its square (both sides). The
    gradient is that of the steady state, feedback and all.

    Args:
        nudge: strength of the force
        sides: one: free and pulled; both: pulled to and fro, which costs a third relaxation
    """

    nudge: Positive = 0.5
    sides: Literal["one", "both"] = "both"

    def pull(self, delta: Delta, net: FeedbackNet, params: PyTree, x: jax.Array, free: States) -> list:
        def towards(nudge: float) -> States:
            return pulled(net, params, x, free, lambda y, free_y: free_y - nudge * delta(y))

        if self.sides == "one":
            return [(-1 / self.nudge, towards(self.nudge)), (1 / self.nudge, free)]
        return [(-0.5 / self.nudge, towards(self.nudge)), (0.5 / self.nudge, towards(-self.nudge))]


@dataclass(frozen=True)
class ContrastiveHebbian(Contrast):
    """The output is held at its target; the links learn what their ends do together then, and unlearn the free state.

    For squared errors. Exact in the limit of weak feedback: its error against backpropagation in the perceptron of the
    same weights falls with the net's `feedback`.
    """

    def check(self, model: Layer, loss: Loss) -> None:
        if loss != SquaredError():
            raise InputError(f"ContrastiveHebbian needs loss=SquaredError, whose delta is y - t, got {loss}")

    def pull(self, delta: Delta, net: FeedbackNet, params: PyTree, x: jax.Array, free: States) -> list:
        target = free[-1] - delta(free[-1])
        return [(-1.0, pulled(net, params, x, free, lambda y, free_y: target)), (1.0, free)]
