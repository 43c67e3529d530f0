"""Embedding and OneHot: integer ids [N, ...] in, vectors out. An integer has no derivative, so dx is None.

    Embedding  y[s] = table[id_s]          dtable[v] = sum of dy[s] over the s with id_s = v: repeated ids add up
    OneHot     y[s, v] = 1 if id_s = v else 0

An Embedding is OneHot with a Dense after it, without the products. It keeps the ids, and its factors are pairs (id,
delta) whose Gram matrix compares ids. Going back is a scatter-add that costs S D. The one-hot product costs V times
that. It is used where many threads that add to one row are slower still: off the CPU, for up to PRODUCT rows.

An id outside of 0 ... V - 1 gives a row of nan, so that the first loss shows it, and no gradient; in OneHot, zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxbp.core import Case, Context, Layer, PyTree, require, shaped
from jaxbp.errors import InputError
from jaxbp.factors import Factors, Sharing, over_leading_axes, register_factors
from jaxbp.inits import Initializer, initializer
from jaxbp.letters import Letters, first_entry

PRODUCT = 4096


@partial(register_factors, meta_fields=["vocabulary"])
@dataclass(frozen=True)
class OneHotFactors(Factors):
    """The factors of a table's gradient: ids a [N, S, 1], each standing for a one-hot row, and deltas g [N, S, D].

    The gradient is stored [V, D]: its rows are those of the one-hot side.
    """

    vocabulary: int

    @property
    def is_outer_product(self) -> bool:
        return False

    @property
    def norm_memory(self) -> int:
        return self.a.shape[-2] ** 2

    def example_gradient(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return added_rows(a, g, self.vocabulary)

    def squared_norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        """sum_st [id_s = id_t] (g_s . g_t)."""
        same = (a == a.T) & (a >= 0) & (a < self.vocabulary)
        return jnp.einsum("st,so,to->", same.astype(g.dtype), g, g)

    def inner_product(self, a: jax.Array, g: jax.Array, other: Factors, b: jax.Array, h: jax.Array) -> jax.Array:
        """With dw[v, d] = sum_t h_t[v] b_t[d] of a Dense: sum_st h_t[id_s] (g_s . b_t)."""
        is_dense = (
            type(other) is Factors and h.shape[-1] == self.vocabulary and len(a) * len(b) < h.shape[-1] * g.shape[-1]
        )
        if not is_dense:
            return super().inner_product(a, g, other, b, h)
        h = h.at[:, a[:, 0]].get(mode="fill", fill_value=0, wrap_negative_indices=False)  # [T, S]
        return jnp.sum(h * jnp.einsum("td,sd->ts", b, g))

    @over_leading_axes
    def gradient(self) -> jax.Array:
        return added_rows(self.a, self.g, self.vocabulary)

    @over_leading_axes
    def inner_products(self) -> jax.Array:
        """[N, N]: sum_st [id_ns = id_mt] (g_ns . g_mt)."""
        ids = jnp.where((self.a >= 0) & (self.a < self.vocabulary), self.a, -1)[..., 0]  # [N, S]
        same = (ids[:, :, None, None] == ids) & (ids >= 0)  # [N, S, N, S]
        return jnp.einsum("nsmt,nso,mto->nm", same.astype(self.g.dtype), self.g, self.g)

    @over_leading_axes
    def kronecker(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """Rows [V], a diagonal matrix of the ids' mean counts, and columns [D, D]; by `expand` in both settings."""
        weights = jnp.broadcast_to((weight / self.a.shape[1])[:, None, None], self.a.shape).astype(self.g.dtype)
        return added_rows(self.a, weights, self.vocabulary)[:, 0], jnp.einsum("nso,nsp->op", self.g, self.g)


def added_rows(ids: jax.Array, rows: jax.Array, vocabulary: int, dtype: jnp.dtype | None = None) -> jax.Array:
    """[V, D]: row v is the sum of the rows [..., D] whose id [...] is v; foreign ids are left out."""
    ids = ids.reshape(-1)
    rows = rows.reshape(-1, rows.shape[-1])
    dtype = dtype or rows.dtype

    def scattered(ids: jax.Array, rows: jax.Array) -> jax.Array:
        table = jnp.zeros((vocabulary, rows.shape[-1]), dtype)
        return table.at[ids].add(rows.astype(dtype), mode="drop", wrap_negative_indices=False)

    def multiplied(ids: jax.Array, rows: jax.Array) -> jax.Array:
        one_hot = jax.nn.one_hot(ids, vocabulary, dtype=rows.dtype)
        return jnp.einsum("sv,sd->vd", one_hot, rows, preferred_element_type=dtype)

    if vocabulary > PRODUCT:
        return scattered(ids, rows)
    return jax.lax.platform_dependent(ids, rows, cpu=scattered, default=multiplied)


@dataclass(frozen=True)
class Embedding(Layer):
    """ids [N, ...] -> [N, ..., D], with the table "w" [V, D] and ids in 0 ... V - 1.

    vocabulary: V, features: D, both at least 1. w_init: of the table (fan_in = D, fan_out = V). dtype: of the vectors,
    such as "bfloat16"; None is the table's own.
    """

    vocabulary: int
    features: int
    w_init: str | Initializer = "normal"
    dtype: str | None = None

    def __post_init__(self) -> None:
        require(self, "vocabulary", self.vocabulary >= 1, "at least 1")
        require(self, "features", self.features >= 1, "at least 1")
        initializer(self.w_init)

    @property
    def letters(self) -> Letters:
        return Letters("", "D", {"w": "VD"}, {"V": (self.vocabulary,)})

    def init(self, key: jax.Array, spec: PyTree) -> PyTree:
        if not jnp.issubdtype(spec.dtype, jnp.integer):
            raise InputError(f"Embedding: the input is integer ids, got {spec.dtype}")
        return {"w": initializer(self.w_init)(key, (self.vocabulary, self.features), in_axis=-1, out_axis=-2)}

    def forward(self, params: PyTree, ids: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array]:
        if ctx.split is None:
            rows = params["w"].at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
            return rows.astype(self.dtype or rows.dtype), ids
        own = ids - first_entry(ctx.split, len(params["w"]))  # the others have the rows of the other ids
        rows = params["w"].at[own].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        exists = (ids >= 0) & (ids < self.vocabulary)
        return jnp.where(exists[..., None], rows, jnp.nan).astype(self.dtype or rows.dtype), own

    def backward(self, params: PyTree, ids: jax.Array, dy: jax.Array) -> tuple[None, PyTree]:
        return None, {"w": added_rows(ids, dy, len(params["w"]), params["w"].dtype)}

    def factors(self, params: PyTree, ids: jax.Array, dy: jax.Array) -> dict[str, Factors]:
        ids = ids.reshape(len(ids), -1, 1)  # [N, S, 1]
        dy = dy.reshape(len(dy), -1, dy.shape[-1])  # [N, S, D]
        return {"w": OneHotFactors(ids, dy, self.vocabulary)}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Embedding(3, 2), shaped(5, 7, dtype=jnp.int32), sample=partial(draw_ids, vocabulary=3))]


@dataclass(frozen=True)
class OneHot(Layer):
    """ids [N, ...] -> [N, ..., V]; vocabulary: V, at least 1. dtype: None is JAX's default float."""

    vocabulary: int
    dtype: str | None = None

    def __post_init__(self) -> None:
        require(self, "vocabulary", self.vocabulary >= 1, "at least 1")

    def forward(self, params: PyTree, ids: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, None]:
        return jax.nn.one_hot(ids, self.vocabulary, dtype=self.dtype or float), None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[None, PyTree]:
        return None, {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(OneHot(3), shaped(5, 7, dtype=jnp.int32), sample=partial(draw_ids, vocabulary=3))]


def draw_ids(key: jax.Array, spec: jax.ShapeDtypeStruct, vocabulary: int) -> jax.Array:
    """Uniform ids; normal numbers where a float is asked for."""
    if jnp.issubdtype(spec.dtype, jnp.floating):
        return jax.random.normal(key, spec.shape, spec.dtype)
    return jax.random.randint(key, spec.shape, 0, vocabulary, spec.dtype)
