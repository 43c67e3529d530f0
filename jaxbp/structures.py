"""Matrices with a structure: W [O, I] of fewer free parameters, and the way back from dW to theirs.

Entries that are shared, each with a sign (Symmetric, Skew, Toeplitz, Circulant, Banded, BlockDiagonal, Sparse):

    W_ij = sign_ij p[index_ij]                       dp[k] = sum of sign_ij dW_ij over the ij with index_ij = k

and products:

    LowRank            W = U V^T                     dU = dW V,   dV = dW^T U
    Kronecker          W_(ik)(jl) = A_ij B_kl        dA_ij = sum_kl dW_(ik)(jl) B_kl,   dB_kl = sum_ij dW_(ik)(jl) A_ij
    PositiveDefinite   W = L L^T + ridge I           dL = lower half of (dW + dW^T) L
    Cayley             W = 2 M - I, M = (I + S)^-1   dS = -2 M^T dW M^T, with S skew

`Cayley` (1846) is W = (I - S) (I + S)^-1: every orthogonal matrix without the eigenvalue -1. A structure of
your own derives from Structure, or from Table where an index and a sign for each entry say it all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import require, wide
from jaxbp.errors import InputError
from jaxbp.inits import Initializer

Params = dict[str, jax.Array]
Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]  # key, shape [O, I] -> weights of that variance


def require_whole(config: object, smallest: int, *names: str) -> None:
    """Raises InputError unless these hyper-parameters are whole numbers of at least `smallest`."""
    for name in names:
        value = getattr(config, name)
        require(config, name, isinstance(value, Integral), "a whole number")
        require(config, name, value >= smallest, f"at least {smallest}")


@dataclass(frozen=True)
class Structure:
    """W [O, I] as a function of free parameters."""

    def init(self, key: jax.Array, outputs: int, inputs: int, w_init: Initializer) -> Params:
        """Free parameters, their entries drawn like those of a whole W. Raises InputError for sizes that do not fit."""
        raise NotImplementedError

    def matrix(self, params: Params, outputs: int, inputs: int) -> jax.Array:
        """W [O, I]."""
        raise NotImplementedError

    def pull(self, params: Params, dw: jax.Array) -> Params:
        """The gradient of the free parameters from dW [O, I]."""
        raise NotImplementedError

    def fits(self, holds: bool, words: str, outputs: int, inputs: int) -> None:
        """Raises InputError unless the sizes hold what `words` say."""
        if not holds:
            raise InputError(f"{type(self).__name__}: needs {words}, got {outputs} outputs and {inputs} inputs")


@dataclass(frozen=True)
class Table(Structure):
    """W_ij = sign_ij p[index_ij]: `table` gives both, [O, I]."""

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        """(index, sign) of every entry; indices count from 0, and signs are -1, 0 or 1."""
        raise NotImplementedError

    def init(self, key: jax.Array, outputs: int, inputs: int, w_init: Initializer) -> Params:
        index, sign = self.table(outputs, inputs)
        count = int(index[sign != 0].max(initial=-1)) + 1
        whole = w_init(key, (outputs, inputs), in_axis=-1, out_axis=0)
        _, first = np.unique(np.where(sign != 0, index, -1), return_index=True)
        density = float((sign != 0).mean()) ** 0.5  # zeros take variance from the sums, and get it back
        return {"w": whole.reshape(-1)[first[-count:]] / density}

    def matrix(self, params: Params, outputs: int, inputs: int) -> jax.Array:
        index, sign = self.table(outputs, inputs)
        p = params["w"]
        return p[np.where(sign != 0, index, 0)] * sign.astype(p.dtype)

    def pull(self, params: Params, dw: jax.Array) -> Params:
        index, sign = self.table(*dw.shape)
        p = params["w"]
        return {"w": jnp.zeros_like(p).at[np.where(sign != 0, index, 0)].add(dw * sign.astype(dw.dtype))}


def grid(outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """The row and the column of every entry, [O, I] each."""
    rows, columns = np.indices((outputs, inputs))
    return rows, columns


@dataclass(frozen=True)
class Symmetric(Table):
    """W = W^T, with D (D + 1) / 2 parameters."""

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        self.fits(outputs == inputs, "as many outputs as inputs", outputs, inputs)
        i, j = grid(outputs, inputs)
        high, low = np.maximum(i, j), np.minimum(i, j)
        return high * (high + 1) // 2 + low, np.ones_like(i)


@dataclass(frozen=True)
class Skew(Table):
    """W = -W^T, with D (D - 1) / 2 parameters."""

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        self.fits(outputs == inputs > 1, "as many outputs as inputs, at least 2", outputs, inputs)
        i, j = grid(outputs, inputs)
        high, low = np.maximum(i, j), np.minimum(i, j)
        return high * (high - 1) // 2 + low, np.sign(i - j)


@dataclass(frozen=True)
class Toeplitz(Table):
    """One parameter for each diagonal, O + I - 1 in all: a correlation of the input with them."""

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        i, j = grid(outputs, inputs)
        return i - j + inputs - 1, np.ones_like(i)


@dataclass(frozen=True)
class Circulant(Table):
    """D parameters: every row is the one above, moved by one around the end; a circular convolution."""

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        self.fits(outputs == inputs, "as many outputs as inputs", outputs, inputs)
        i, j = grid(outputs, inputs)
        return (i - j) % inputs, np.ones_like(i)


@dataclass(frozen=True)
class Banded(Table):
    """Zeros but for `lower` diagonals below the main one and `upper` above it."""

    lower: int = 1
    upper: int = 1

    def __post_init__(self) -> None:
        require_whole(self, 0, "lower", "upper")

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        i, j = grid(outputs, inputs)
        return counted((j - i >= -self.lower) & (j - i <= self.upper))


@dataclass(frozen=True)
class BlockDiagonal(Table):
    """Zeros but for `blocks` blocks of equal size along the diagonal: groups of features that do not meet."""

    blocks: int

    def __post_init__(self) -> None:
        require_whole(self, 1, "blocks")

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        divides = outputs % self.blocks == inputs % self.blocks == 0
        self.fits(divides, f"multiples of {self.blocks} blocks", outputs, inputs)
        i, j = grid(outputs, inputs)
        return counted(i // (outputs // self.blocks) == j // (inputs // self.blocks))


@dataclass(frozen=True)
class Sparse(Table):
    """Zeros but for the entries (row, column) that are listed."""

    entries: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        require(self, "entries", len(self.entries) > 0, "at least one (row, column)")
        pairs = all(np.shape(pair) == (2,) and all(isinstance(n, Integral) for n in pair) for pair in self.entries)
        require(self, "entries", pairs, "pairs (row, column) of whole numbers")

    def table(self, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.array(self.entries).T
        inside = rows.max() < outputs and columns.max() < inputs and min(rows.min(), columns.min()) >= 0
        self.fits(bool(inside), f"{rows.max() + 1} outputs and {columns.max() + 1} inputs", outputs, inputs)
        kept = np.zeros((outputs, inputs), bool)
        kept[rows, columns] = True
        return counted(kept)


def counted(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table whose entries `kept` have a parameter each, row by row, and whose others are 0."""
    return np.where(kept, kept.reshape(-1).cumsum().reshape(kept.shape) - 1, 0), kept.astype(int)


@dataclass(frozen=True)
class LowRank(Structure):
    """W = U V^T with U [O, rank] and V [I, rank]."""

    rank: int

    def __post_init__(self) -> None:
        require_whole(self, 1, "rank")

    def init(self, key: jax.Array, outputs: int, inputs: int, w_init: Initializer) -> Params:
        u_key, v_key = jax.random.split(key)
        u = jax.random.normal(u_key, (outputs, self.rank)) / self.rank**0.5
        return {"u": u, "v": w_init(v_key, (self.rank, inputs), in_axis=-1, out_axis=0).T}

    def matrix(self, params: Params, outputs: int, inputs: int) -> jax.Array:
        return jnp.einsum("or,ir->oi", params["u"], params["v"])

    def pull(self, params: Params, dw: jax.Array) -> Params:
        return {"u": jnp.einsum("oi,ir->or", dw, params["v"]), "v": jnp.einsum("oi,or->ir", dw, params["u"])}


@dataclass(frozen=True)
class Kronecker(Structure):
    """W = A (x) B with A [rows, columns] and B of the size that is left: rows divides O, columns divides I."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        require_whole(self, 1, "rows", "columns")

    def init(self, key: jax.Array, outputs: int, inputs: int, w_init: Initializer) -> Params:
        divides = outputs % self.rows == inputs % self.columns == 0
        self.fits(divides, f"multiples of {self.rows} outputs and {self.columns} inputs", outputs, inputs)
        a_key, b_key = jax.random.split(key)
        draw = lambda key, shape: w_init(key, shape, in_axis=-1, out_axis=0)
        right = draw(b_key, (outputs // self.rows, inputs // self.columns))
        return {"left": draw(a_key, (self.rows, self.columns)), "right": right}

    def matrix(self, params: Params, outputs: int, inputs: int) -> jax.Array:
        return jnp.einsum("ij,kl->ikjl", params["left"], params["right"]).reshape(outputs, inputs)

    def pull(self, params: Params, dw: jax.Array) -> Params:
        a, b = params["left"], params["right"]
        dw = dw.reshape(a.shape[0], b.shape[0], a.shape[1], b.shape[1])
        return {"left": jnp.einsum("ikjl,kl->ij", dw, b), "right": jnp.einsum("ikjl,ij->kl", dw, a)}


@dataclass(frozen=True)
class PositiveDefinite(Structure):
    """W = L L^T + ridge I with a lower triangular L; ridge is at least 0."""

    ridge: float = 0.0

    def __post_init__(self) -> None:
        require(self, "ridge", self.ridge >= 0, "at least 0")

    def init(self, key: jax.Array, outputs: int, inputs: int, w_init: Initializer) -> Params:
        self.fits(outputs == inputs, "as many outputs as inputs", outputs, inputs)
        index = np.tril_indices(outputs)
        whole = w_init(key, (outputs, inputs), in_axis=-1, out_axis=0) / 2 + jnp.eye(outputs, dtype=jnp.float32)
        return {"w": whole[index]}

    def lower(self, p: jax.Array, size: int) -> jax.Array:
        """L [D, D] of its entries."""
        return jnp.zeros((size, size), p.dtype).at[np.tril_indices(size)].set(p)

    def matrix(self, params: Params, outputs: int, inputs: int) -> jax.Array:
        lower = self.lower(params["w"], outputs)
        return jnp.einsum("ik,jk->ij", lower, lower) + self.ridge * jnp.eye(outputs, dtype=lower.dtype)

    def pull(self, params: Params, dw: jax.Array) -> Params:
        lower = self.lower(params["w"], len(dw))
        return {"w": jnp.einsum("ij,jk->ik", dw + dw.T, lower)[np.tril_indices(len(dw))]}


@dataclass(frozen=True)
class Cayley(Structure):
    """W = (I - S) (I + S)^-1 with S skew: W^T W = I, and det W = 1."""

    def init(self, key: jax.Array, outputs: int, inputs: int, w_init: Initializer) -> Params:
        return Skew().init(key, outputs, inputs, w_init)

    def inverse(self, params: Params, size: int) -> jax.Array:
        """M = (I + S)^-1, [D, D], in at least float32."""
        skew = wide(Skew().matrix(params, size, size))
        return jnp.linalg.inv(jnp.eye(size, dtype=skew.dtype) + skew)

    def matrix(self, params: Params, outputs: int, inputs: int) -> jax.Array:
        inverse = self.inverse(params, outputs)
        return (2 * inverse - jnp.eye(outputs, dtype=inverse.dtype)).astype(params["w"].dtype)

    def pull(self, params: Params, dw: jax.Array) -> Params:
        inverse = self.inverse(params, len(dw))
        ds = -2 * jnp.einsum("ji,jk,lk->il", inverse, dw, inverse)
        return Skew().pull(params, ds.astype(dw.dtype))
