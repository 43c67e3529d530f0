"""A leaky integrate-and-fire neuron: its state is (z, v), a spike of 0 or 1 and the potential of the membrane.

    forward   v' = decay v + x wx^T + z wh^T + b - threshold z,    z' = 1 if v' >= threshold else 0
    backward  dv' += dz' k,    dz = dv' wh - threshold dv',        dv = decay dv'

The step has no slope, so k is a surrogate: slope max(0, 1 - |v' - threshold| / threshold) (Bellec et al. 2018, arXiv
1803.09574; Neftci et al. 2019, arXiv 1901.09948). Backward is exact for that surrogate, which `spike` declares to JAX
as its derivative: the oracle of the check. It is not the derivative of the spikes, which is zero, and which differences
measure. Keeps the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxbp.core import Case, PyTree, require, shaped
from jaxbp.layers.cells import Arrays, Cell, Pairs
from jaxbp.ops.products import across
from jaxbp.typed import Fraction, Positive, fits


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def spike(v: jax.Array, threshold: float, slope: float) -> jax.Array:
    """1 where v reaches the threshold, else 0."""
    return jnp.where(v >= threshold, 1, 0).astype(v.dtype)


@spike.defjvp
def _spike_jvp(threshold: float, slope: float, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    v = primals[0]
    return spike(v, threshold, slope), surrogate_slope(v, threshold, slope) * tangents[0]


def surrogate_slope(v: jax.Array, threshold: float, slope: float) -> jax.Array:
    """k: what stands for the slope of `spike`."""
    return slope * jnp.maximum(0, 1 - jnp.abs(v - threshold) / threshold)


@dataclass(frozen=True)
class SpikingCell(Cell):
    """A layer of leaky integrate-and-fire neurons, with wx [H, D], wh [H, H], b [H]; the output is the spikes.

    decay: of the potential in a step, in [0, 1). threshold, slope: see the module, both above 0.
    """

    decay: float = 0.9
    threshold: float = 1.0
    slope: float = 0.3

    states: ClassVar[int] = 2

    @property
    def surrogate(self) -> bool:
        """Backward is that of a slope which `spike` declares, and not of its values."""
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "decay", fits(self.decay, Fraction), "in [0, 1)")
        require(self, "threshold", fits(self.threshold, Positive), "a finite number above 0")
        require(self, "slope", fits(self.slope, Positive), "a finite number above 0")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x, h, b = jax.random.split(key, 3)
        return {
            "wx": self.matrix(x, self.w_init, 1, spec[0].shape[-1]),
            "wh": self.matrix(h, self.wh_init, 1, self.features),
            "b": self.bias(b, 1),
        }

    def loop_weights(self, params: PyTree) -> PyTree:
        return params["wh"].T

    def step(self, weights: PyTree, state: Arrays, a: jax.Array) -> tuple[Arrays, Arrays]:
        z, v = state
        v = self.decay * v + a + across(z, weights) - self.threshold * z
        return (spike(v, self.threshold, self.slope), v), ()

    def slopes(self, params: PyTree, before: Arrays, gates: Arrays, after: Arrays) -> Arrays:
        return (surrogate_slope(after[1], self.threshold, self.slope),)

    def step_backward(self, params: PyTree, dstate: Arrays, slopes: Arrays) -> tuple[Arrays, Arrays]:
        dz, dv = dstate
        dv = dv + dz * slopes[0]
        return (across(dv, params["wh"]) - self.threshold * dv, self.decay * dv), (dv,)

    def pairs(
        self, x: jax.Array, before: Arrays, gates: Arrays, after: Arrays, slopes: Arrays, deltas: Arrays
    ) -> Pairs:
        (dv,) = deltas
        return {"wx": (x, dv), "wh": (before[0], dv), "b": (None, dv)}

    @classmethod
    def cases(cls) -> list[Case]:
        reason = "the step's own derivative is zero; backward is that of its surrogate"
        return [Case(SpikingCell(2), (shaped(5, 3), (shaped(5, 2),) * 2), excused=(("differences", reason),))]
