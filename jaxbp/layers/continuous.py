"""A net in continuous time: every unit has a time constant tau, a gain g and a threshold, all learned.

    tau dh/dt = f(g p) - h,   p = x wx^T + h wh^T - threshold       (Hopfield 1984; Pineda 1987; Pearlmutter 1989)

    forward   h' = h + a (f(g p) - h),   a = 1 - exp(-dt / tau)            p held over a step of length dt
    backward  dp = dh' a g f'(g p),      dh = dh' (1 - a) + dp wh
              dg = dh' a p f'(g p),      dlog_tau = -dh' (f(g p) - h) (1 - a) dt / tau

log_tau is the parameter, so that tau stays positive. The step solves the equation exactly for a p that stands still, so
it is stable for every dt. Its fixed points h = f(g p) are those of the equation, and no tau moves them. Keeps p and h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxbp.core import Case, PyTree, require, shaped
from jaxbp.errors import unknown
from jaxbp.layers.cells import FROM_OUTPUT, Arrays, Cell, Pairs
from jaxbp.ops.bias import add_bias
from jaxbp.ops.products import across, along, rounded
from jaxbp.typed import Positive, fits


@dataclass(frozen=True)
class ContinuousCell(Cell):
    """One step of tau dh/dt = f(g p) - h, with wx [H, D], wh [H, H], and log_tau, gain, threshold [H].

    activation: "tanh", "sigmoid", "relu" or "identity". dt: length of a step. time_constants: least and most at the
    start, in the unit of dt, spread evenly on a logarithmic scale. Thresholds are drawn by b_init; gains start at 1.
    """

    activation: str = "tanh"
    dt: float = 1.0
    time_constants: tuple[float, float] = (1.0, 10.0)

    gates: ClassVar[int] = 1  # p

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in FROM_OUTPUT:
            raise unknown("ContinuousCell activation", self.activation, FROM_OUTPUT)
        require(self, "dt", fits(self.dt, Positive), "a finite number above 0")
        times = self.time_constants
        ordered = fits(times, tuple[Positive, ...]) and len(times) == 2 and times[0] <= times[1]
        require(self, "time_constants", ordered, "two finite numbers above 0, the smaller first")

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        x, h, b = jax.random.split(key, 3)
        return {
            "wx": self.matrix(x, self.w_init, 1, spec[0].shape[-1]),
            "wh": self.matrix(h, self.wh_init, 1, self.features),
            "threshold": self.bias(b, 1),
            "gain": jnp.ones(self.features, jnp.float32),
            "log_tau": jnp.log(jnp.geomspace(*self.time_constants, self.features, dtype=jnp.float32)),
        }

    def leak(self, params: PyTree) -> jax.Array:
        """a [H]: the share of the way to f(g p) that a step goes."""
        return -jnp.expm1(-self.dt * jnp.exp(-params["log_tau"]))

    def project(self, params: PyTree, x: jax.Array) -> jax.Array:
        return add_bias(rounded("...i,gi->...g", x, params["wx"].astype(x.dtype)), -params["threshold"])

    def loop_weights(self, params: PyTree) -> PyTree:
        return params["wh"].T, params["gain"], self.leak(params)

    def step(self, weights: PyTree, state: Arrays, a: jax.Array) -> tuple[Arrays, Arrays]:
        wh, gain, leak = weights
        (h,) = state
        p = a + across(h, wh)
        f = FROM_OUTPUT[self.activation][0](along(p, gain))
        return (h + along(f - h, leak),), (p,)

    def slopes(self, params: PyTree, before: Arrays, gates: Arrays, after: Arrays) -> Arrays:
        (h,) = before
        (p,) = gates
        value, slope = FROM_OUTPUT[self.activation]
        f = value(along(p, params["gain"]))
        leak = self.leak(params)
        dleak = -(1 - leak) * self.dt * jnp.exp(-params["log_tau"])
        return along(slope(f), leak * params["gain"]), along(p * slope(f), leak), along(f - h, dleak)

    def step_backward(self, params: PyTree, dstate: Arrays, slopes: Arrays) -> tuple[Arrays, Arrays]:
        (dh,) = dstate
        return (across(dh * slopes[0], params["wh"]) + along(dh, 1 - self.leak(params)),), (dh,)

    def pairs(
        self, x: jax.Array, before: Arrays, gates: Arrays, after: Arrays, slopes: Arrays, deltas: Arrays
    ) -> Pairs:
        (dh,) = deltas
        dp, dgain, dlog_tau = (dh * slope for slope in slopes)
        return {
            "wx": (x, dp),
            "wh": (before[0], dp),
            "threshold": (None, -dp),
            "gain": (None, dgain),
            "log_tau": (None, dlog_tau),
        }

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(ContinuousCell(2, dt=0.5), (shaped(5, 3), (shaped(5, 2),)))]
