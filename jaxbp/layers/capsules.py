"""Capsules: groups of units whose vector is one answer, and routing by agreement between two layers of them.

    squash     y = |s| / (1 + |s|^2) s           its length is |s|^2 / (1 + |s|^2), below 1
    votes      u_ij = W_ij x_i                   what capsule i of the layer below says of capsule j
    routing    b = 0, and r times  c_i = softmax b_i,  s_j = sum_i c_ij u_ij,  v_j = squash s_j,  b_ij += u_ij . v_j

(Sabour, Frosst & Hinton 2017, arXiv 1710.09829, procedure 1.) Backward goes through all rounds, last to first. With
db = 0 and dv = dy at the last:

    ds = squash's backward of dv               du_ij += c_ij ds_j
    db_i += c_i * (dc_i - c_i . dc_i)          dc_ij = ds_j . u_ij
    the round before:  dv_j = sum_i db_ij u_ij,   du_ij += db_ij v_j

and dW_ij = sum_n du_ij x_i^T, dx_i = sum_j W_ij^T du_ij. Keeps x. The votes are made again; of every round c and s are.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.factors import Factors, GroupedFactors
from jaxbp.inits import Initializer, initializer
from jaxbp.ops.probabilities import softmax_backward
from jaxbp.ops.products import rounded


def squash(s: jax.Array) -> jax.Array:
    """|s| / (1 + |s|^2) s over the last axis."""
    square = jnp.sum(s * s, -1, keepdims=True)
    return s * length(square) / (1 + square)


def squash_backward(s: jax.Array, dy: jax.Array) -> jax.Array:
    """ds: dy |s| / (1 + |s|^2) + s (s . dy) (1 - |s|^2) / (|s| (1 + |s|^2)^2)."""
    square = jnp.sum(s * s, -1, keepdims=True)
    size = length(square)
    slope = (1 - square) / (jnp.where(size > 0, size, 1) * (1 + square) ** 2)
    return dy * size / (1 + square) + s * jnp.sum(s * dy, -1, keepdims=True) * slope


def length(square: jax.Array) -> jax.Array:
    """The root, with the derivative 0 at 0."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


@dataclass(frozen=True)
class Squash(Layer):
    """y = |s| / (1 + |s|^2) s of the vectors along the last axis: [N, ..., D] -> the same shape."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        return squash(x), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return squash_backward(x, dy), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Squash(), shaped(5, 3, 2))]


@dataclass(frozen=True)
class Lengths(Layer):
    """y = |x| of the vectors along the last axis: [N, ..., D] -> [N, ...]; dx = dy x / |x|, and 0 at 0."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        return length(jnp.sum(x * x, -1)), x

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        size = length(jnp.sum(x * x, -1))
        return x * (dy / jnp.where(size > 0, size, 1))[..., None], {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Lengths(), shaped(5, 3, 2))]


@dataclass(frozen=True)
class Capsules(Layer):
    """[N, I, A] -> [N, capsules, size], capsules of A units in, of `size` units out; w [I, capsules, size, A].

    rounds: of routing, at least 1; with 1 every capsule above hears all below alike. w_init: a name or an initializer
    of jaxbp.inits (fan_in = A, fan_out = size).
    """

    capsules: int
    size: int
    rounds: int = 3
    w_init: str | Initializer = "lecun_normal"

    def __post_init__(self) -> None:
        for key in ("capsules", "size", "rounds"):
            require(self, key, getattr(self, key) >= 1, "at least 1")
        initializer(self.w_init)

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        below, units = spec.shape[1:]
        shape = (below * self.capsules * self.size, units)
        w = initializer(self.w_init)(key, shape, in_axis=-1, out_axis=0)
        return {"w": w.reshape(below, self.capsules, self.size, units)}

    def rounds_of(self, votes: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        """(c [N, I, J], s [N, J, D]) of every round."""
        kept = []
        b = jnp.zeros(votes.shape[:-1], votes.dtype)
        for _ in range(self.rounds):
            c = jax.nn.softmax(b, -1)
            s = rounded("nij,nijd->njd", c, votes)
            kept.append((c, s))
            b = b + rounded("nijd,njd->nij", votes, squash(s))
        return kept

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, PyTree]:
        votes = rounded("nia,ijda->nijd", x, params["w"].astype(x.dtype))
        return squash(self.rounds_of(votes)[-1][1]), x

    def vote_deltas(self, params: PyTree, x: jax.Array, dy: jax.Array) -> jax.Array:
        """du [N, I, J, D]."""
        votes = rounded("nia,ijda->nijd", x, params["w"].astype(x.dtype))
        du = jnp.zeros_like(votes)
        db = jnp.zeros(votes.shape[:-1], votes.dtype)
        dv = dy
        rounds = self.rounds_of(votes)
        for number in range(self.rounds - 1, -1, -1):
            c, s = rounds[number]
            ds = squash_backward(s, dv)
            du = du + rounded("nij,njd->nijd", c, ds)
            db = db + softmax_backward(c, rounded("njd,nijd->nij", ds, votes), -1)
            if number:
                du = du + rounded("nij,njd->nijd", db, squash(rounds[number - 1][1]))
                dv = rounded("nij,nijd->njd", db, votes)
        return du

    def backward(self, params: PyTree, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        du = self.vote_deltas(params, x, dy)
        dx = rounded("nijd,ijda->nia", du, params["w"].astype(du.dtype))
        return dx, {"w": jnp.einsum("nijd,nia->ijda", du, x, preferred_element_type=params["w"].dtype)}

    def factors(self, params: PyTree, x: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        du = self.vote_deltas(params, x, dy)
        return {"w": GroupedFactors(x[:, :, None], du.reshape(*du.shape[:2], 1, -1))}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Capsules(2, 3, rounds=2), shaped(5, 4, 3))]
