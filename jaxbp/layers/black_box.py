"""A layer around a function that can only be called: NumPy code, a simulator, another process.

    forward   y_n = f(x_n)                                       one call for the whole batch
    backward  dx_n[i] = sum_o J_n[o, i] dy_n[o]                  J_n is sensed by differences: jaxbp.sensing

Calls go to the host, in float64. The structure of J says how many backward needs: 2 b + 1 for b diagonals on each side
of the main one, as many as inputs for a full matrix. Only the entries of J that the structure has are formed. Keeps x.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, floating, require, shaped
from jaxbp.errors import InputError
from jaxbp.sensing import Calls, Function, sense
from jaxbp.structures import Banded, BlockDiagonal, Table, require_whole


@dataclass(frozen=True)
class BlackBox(Layer):
    """y = f(x): [N, I] -> [N, features], for any f from NumPy arrays [N, I] to [N, features].

    f: each row of its answer depends on that row of x alone. A jaxbp.sensing.Calls counts its calls; another function
    is put into one. structure: what is known of the Jacobian [features, I]: a table of jaxbp.structures, such as
    Banded(1, 1), Toeplitz(), or what jaxbp.sensing.find gives; None for a full matrix. central: two calls for each
    direction, with an error of about 1e-10 instead of 1e-8. step: of the differences; see jaxbp.sensing.directional.
    Raises InputError for a structure that is no table or does not fit, and for another x. An answer of another shape
    is met when f is called: it raises InputError too, which under jit is the last line of JAX's own error.
    """

    f: Function
    features: int
    structure: Table | None = None
    central: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        require_whole(self, 1, "features")
        is_table = self.structure is None or isinstance(self.structure, Table)
        require(self, "structure", is_table, "a table of jaxbp.structures, such as Banded(1, 1), or None")
        if not isinstance(self.f, Calls):
            object.__setattr__(self, "f", Calls(self.f))

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        """No parameters. Raises InputError where the structure has no table of [features, I]."""
        self.table.table(self.features, spec.shape[-1])
        return {}

    @property
    def table(self) -> Table:
        """The structure; a full matrix is one block."""
        return BlockDiagonal(1) if self.structure is None else self.structure

    def answers(self, x: np.ndarray) -> np.ndarray:
        """f(x) [N, features]. Raises InputError for an answer of another width."""
        y = self.f(x)
        if y.shape[1] != self.features:
            raise InputError(f"BlackBox: features is {self.features}, but the function answers {list(y.shape)}")
        return y

    def value(self, x: jax.Array) -> jax.Array:
        """f(x), with the sensed Jacobian as its derivative in forward mode too."""
        if floating(x).ndim != 2:
            raise InputError(f"BlackBox takes x [N, I], got {list(x.shape)}; Reshape and Flatten make rows")

        @jax.custom_jvp
        def call(x: jax.Array) -> jax.Array:
            return on_host(self.answers, self.features, x)

        def tangent(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
            x, x_dot = primals[0], tangents[0]
            rows, columns, entries = self.entries(x)
            y_dot = jnp.zeros((len(x), self.features), x.dtype).at[:, rows].add(entries * x_dot[:, columns])
            return call(x), y_dot

        call.defjvp(tangent)
        return call(x)

    def entries(self, x: jax.Array) -> tuple[np.ndarray, np.ndarray, jax.Array]:
        """(rows, columns, J [N, E] there): the entries of the Jacobian that the structure has."""
        index, sign = self.table.table(self.features, x.shape[-1])
        rows, columns = np.nonzero(sign)
        sensed = lambda x: sense(self.answers, x, self.table, self.features, self.central, self.step)
        parameters = on_host(sensed, int(index[rows, columns].max()) + 1, x)
        return rows, columns, parameters[:, index[rows, columns]] * sign[rows, columns].astype(x.dtype)[None]

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        return self.value(x), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        rows, columns, entries = self.entries(x)
        return jnp.zeros(x.shape, dy.dtype).at[:, columns].add(entries * dy[:, rows]), {}

    @classmethod
    def cases(cls) -> list[Case]:
        reason = (("repr", "a function has no text that makes it again"),)
        layer = BlackBox(chain, 5, Banded(1, 1), central=True)
        return [Case(layer, shaped(5, 5), name="banded", excused=reason)]


def on_host(f: Function, width: int, x: jax.Array) -> jax.Array:
    """f(x) by NumPy: x [N, I] -> [N, width] in the dtype of x, mapped over by vmap as more rows.

    Where x is known f is called here, so that its errors stay its own; traced, JAX calls it. Float64 travels as pairs
    of uint32, for JAX calls back in a thread that may have no float64.
    """
    if not isinstance(x, jax.core.Tracer):
        return jnp.asarray(f(np.asarray(x, np.float64)), x.dtype)
    is_wide = x.dtype == jnp.float64

    def call(sent: jax.Array) -> np.ndarray:
        words = np.ascontiguousarray(sent)
        rows = words.view(np.float64)[..., 0] if is_wide else words
        y = f(rows.reshape(-1, rows.shape[-1]).astype(np.float64)).reshape(*rows.shape[:-1], width)
        return y[..., None].view(np.uint32) if is_wide else y.astype(rows.dtype)

    if is_wide:
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
    shape = (len(x), width, 2) if is_wide else (len(x), width)
    spec = jax.ShapeDtypeStruct(shape, x.dtype)
    logging.getLogger("jax._src.callback").addFilter(is_of_jax)
    y = jax.pure_callback(call, spec, x, vmap_method="expand_dims")
    return jax.lax.bitcast_convert_type(y, jnp.float64) if is_wide else y


def is_of_jax(record: logging.LogRecord) -> bool:
    """Whether JAX should log a failed call: an InputError stands in the error that it raises, too."""
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))


def chain(x: np.ndarray) -> np.ndarray:
    """Each entry with its neighbours: tanh(x_i) + x_(i-1) x_(i+1) / 4, a box for examples and tests."""
    ends = np.pad(x, ((0, 0), (1, 1)))
    return np.tanh(x) + ends[:, :-2] * ends[:, 2:] / 4
