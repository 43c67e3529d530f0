"""Real-time recurrent learning: the exact gradient of a recurrent cell forward in time (Williams & Zipser 1989).

The influence of the parameters on the state, P_t = ds_t/dw, is carried with the state s_t = cell(x_t, s_t-1; w):

    P_t = J_t P_t-1 + I_t        J_t = ds_t/ds_t-1,  I_t = ds_t/dw with s_t-1 held fixed
    dw  = sum_t dh_t P_t         dh_t the delta of step t's output: each step gives its contribution at once

With fixed parameters the sum is that of backpropagation through time, and nothing of the past is kept. With an update
at every step it is the paper's online algorithm. The rows of J_t and I_t are the cell's own backward of unit vectors.
An example carries S |w| numbers for a state of S entries, and a step costs S^2 |w|. Since |w| ~ H^2, memory grows as
H^3 and time as H^4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import Context, PyTree, register
from jaxbp.layers.cells import Arrays, Cell


@partial(register, data_fields=["state", "influence"], meta_fields=[])
@dataclass(frozen=True)
class Moment:
    """What is carried from step to step."""

    state: Arrays  # each [N, H], the first is the output
    influence: PyTree  # like the parameters, with [N, S] before: the derivative of every entry of the state


@dataclass(frozen=True)
class RealTimeRecurrentLearning:
    """Of a cell: `start` once, `step` for each x [N, D], `gradient` at the steps that have a delta. All are pure."""

    cell: Cell

    def start(self, params: PyTree, rows: int) -> Moment:
        """A state of zeros, which no parameter has influenced yet."""
        state = self.cell.start(rows, params["wx"].dtype)
        size = self.cell.states * self.cell.features
        return Moment(state, jax.tree.map(lambda p: jnp.zeros((rows, size, *p.shape), p.dtype), params))

    def step(self, params: PyTree, moment: Moment, x: jax.Array) -> Moment:
        """The state after one more input x [N, D], and its derivative."""
        state, cache = self.cell.forward(params, (x, moment.state), Context())
        size = self.cell.states * self.cell.features
        units = jnp.split(jnp.eye(size, dtype=x.dtype), self.cell.states, -1)  # of each array of the state [S, H]

        def example(cache: PyTree, influence: PyTree) -> PyTree:
            batch_of_one = jax.tree.map(lambda a: a[None], cache)
            rows_of = lambda *unit: self.cell.backward(params, batch_of_one, tuple(u[None] for u in unit))
            (_, before), immediate = jax.vmap(rows_of)(*units)
            jacobian = jnp.concatenate([d[:, 0] for d in before], -1)  # [S, S]
            return jax.tree.map(lambda i, p: i + jnp.einsum("kj,j...->k...", jacobian, p), immediate, influence)

        return Moment(state, jax.vmap(example)(cache, moment.influence))

    def gradient(self, moment: Moment, dh: jax.Array) -> PyTree:
        """This step's contribution to the gradient, like the parameters, for a delta dh [N, H] of its output."""
        return jax.tree.map(lambda p: jnp.einsum("nh,nh...->...", dh, p[:, : self.cell.features]), moment.influence)
