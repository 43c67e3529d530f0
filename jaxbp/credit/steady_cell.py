"""The steady state of a recurrent cell whose input stands still, as a layer: recurrent backpropagation through time."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from jaxbp.core import Context, PyTree
from jaxbp.credit.relax import Relaxer
from jaxbp.credit.steady import States, Steady
from jaxbp.layers.cells import Cell


@dataclass(frozen=True)
class SteadyCell(Steady):
    """x [N, D] -> y [N, H]: the state s = cell(x, s) that a cell of one array comes to, such as a ContinuousCell.

    relaxer: of state and adjoint. Exact up to its tolerance: the gradient is that of a run over endless time.
    """

    cell: Cell
    relaxer: Relaxer = Relaxer()

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        return self.cell.init(key, (spec,))

    def start(self, x: jax.Array) -> States:
        return self.cell.start(len(x), x.dtype)

    def step(self, params: PyTree, states: States, x: jax.Array, ctx: Context) -> tuple[States, PyTree]:
        return self.cell.forward(params, (x, states), ctx)

    def step_backward(self, params: PyTree, cache: PyTree, ds: States) -> tuple[States, jax.Array, PyTree]:
        (dx, before), grads = self.cell.backward(params, cache, ds)
        return before, dx, grads

    def states_of(self, cache: PyTree) -> States:
        return cache[1]
