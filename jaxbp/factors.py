"""The factors of a weight gradient, activation and delta, and what they tell without forming the gradient.

A weight that meets activations a_ns and deltas g_ns at the positions s of example n has the gradient

    dw = sum_n dw_n,   dw_n[o, i] = sum_s g_ns[o] a_ns[i]

From the factors, dw_n can be formed for a few examples at a time, and its norm without forming it at all:

    |dw_n|^2 = sum_st (a_ns . a_nt)(g_ns . g_nt)                                     (Goodfellow 2015, arXiv 1510.01799)

A subclass defines one example's gradient and squared norm. Everything else is written once, for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Literal

import jax
import jax.numpy as jnp

register_factors = partial(jax.tree_util.register_dataclass, data_fields=["a", "g"])
BLOCK = 2**19  # numbers held at once: 2 MiB in float32
Sharing = Literal["expand", "reduce"]


def over_leading_axes(method: Callable) -> Callable:
    """Map the method over any axes before the batch axis (such as a Stack's depth)."""

    @wraps(method)
    def run(self: Factors, *arguments: Any) -> Any:
        if self.a.ndim == self.axes:
            return method(self, *arguments)
        return jax.lax.map(lambda entry: run(entry, *arguments), self)

    return run


@partial(register_factors, meta_fields=[])
@dataclass(frozen=True)
class Factors:
    """Activation a [N, S, I] and delta g [N, S, O]: dw[o, i] = sum_ns g[nso] a[nsi]. Both may have leading axes.

    Gradients are [O, I]. The caller gives them the parameter's shape.
    """

    a: jax.Array
    g: jax.Array

    @classmethod
    def of_bias(cls, g: jax.Array) -> Factors:
        """The factors of a bias with deltas g [N, S, O]. Its activation is one, so the deltas are summed over S."""
        g = jnp.sum(g, 1, keepdims=True)
        return cls(jnp.ones_like(g[..., :1]), g)

    @property
    def axes(self) -> int:
        """The number of axes of `a` from the batch axis on."""
        return 3

    @property
    def is_outer_product(self) -> bool:
        """Whether every example has one position, so that its gradient is one product of two vectors."""
        return self.a.shape[-2] == 1

    @property
    def norm_memory(self) -> int:
        """How many numbers the norm of one example's gradient needs in memory."""
        return min(self.a.shape[-1] * self.g.shape[-1], self.a.shape[-2] ** 2)

    def example_gradient(self, a: jax.Array, g: jax.Array) -> jax.Array:
        """[O, I]: the gradient of one example with factors a [S, I] and g [S, O]."""
        return jnp.einsum("so,si->oi", g, a)

    def squared_norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        """The squared norm of that gradient, from the gradient or from two [S, S] products, whichever costs less.

        A product that is summed at once costs half as much as one that is stored.
        """
        s, i = a.shape
        o = g.shape[-1]
        if 2 * i * o < s * (i + o):
            return jnp.sum(jnp.square(self.example_gradient(a, g)))
        return jnp.sum(jnp.einsum("si,ti->st", a, a) * jnp.einsum("so,to->st", g, g))

    @over_leading_axes
    def gradient(self) -> jax.Array:
        """The whole batch's gradient, [..., O, I]."""
        return jnp.einsum("nso,nsi->oi", self.g, self.a)

    @over_leading_axes
    def example_gradients(self) -> jax.Array:
        """[..., N, O, I]: each example's gradient."""
        return jax.vmap(self.example_gradient)(self.a, self.g)

    @over_leading_axes
    def squared_norms(self) -> jax.Array:
        """[..., N]: of each example's gradient, a block of examples at a time."""
        if self.is_outer_product:
            return jnp.einsum("nsi,nsi->n", self.a, self.a) * jnp.einsum("nso,nso->n", self.g, self.g)
        n = len(self.a)
        if n * self.norm_memory <= BLOCK:
            return jax.vmap(self.squared_norm)(self.a, self.g)
        block = max((k for k in range(1, n) if n % k == 0 and k * self.norm_memory <= BLOCK), default=1)
        return jax.lax.map(lambda pair: self.squared_norm(*pair), (self.a, self.g), batch_size=block)

    @over_leading_axes
    def inner_products(self) -> jax.Array:
        """[..., N, N]: of the gradients of every two examples, which are formed only where S > 1."""
        if self.is_outer_product:
            return jnp.einsum("nsi,msi->nm", self.a, self.a) * jnp.einsum("nso,mso->nm", self.g, self.g)
        dw = self.example_gradients()
        return jnp.einsum("noi,moi->nm", dw, dw)

    @over_leading_axes
    def second_moment(self) -> jax.Array:
        """[..., O, I]: sum_n dw_n^2, entry by entry."""
        if self.is_outer_product:
            return Factors(jnp.square(self.a), jnp.square(self.g)).gradient()
        return total(lambda a, g: jnp.square(self.example_gradient(a, g)), self.a, self.g)

    @over_leading_axes
    def kronecker(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """(G [..., O, O], A [..., I, I]), whose Kronecker product is near sum_n vec(dw_n) vec(dw_n)^T.

        expand:  G = sum_ns g_ns g_ns^T  and  A = sum_ns weight_n / S a_ns a_ns^T: positions count as examples
        reduce:  the same of sum_s g_ns and mean_s a_ns

        weight [N] adds up to one (Eschenhagen et al. 2023, arXiv 2311.00636, section 3). A diagonal G is [..., O].
        """
        a = jnp.mean(self.a, 1, keepdims=True) if sharing == "reduce" else self.a
        g = jnp.sum(self.g, 1, keepdims=True) if sharing == "reduce" else self.g
        weighted = a * (weight / a.shape[1])[:, None, None].astype(a.dtype)
        return jnp.einsum("nso,nsp->op", g, g), jnp.einsum("nsi,nsj->ij", weighted, a)

    def scaled(self, scale: jax.Array) -> Factors:
        """The factors of scale_n dw_n, for scale [N]."""
        return replace(self, g=self.g * scale.reshape(-1, *(1,) * (self.axes - 1)).astype(self.g.dtype))

    def concatenated(self, other: Factors) -> Factors:
        """The factors of a parameter that is used twice: the positions of both uses."""
        return replace(self, a=jnp.concatenate([self.a, other.a], -2), g=jnp.concatenate([self.g, other.g], -2))


@partial(register_factors, meta_fields=[])
@dataclass(frozen=True)
class GroupedFactors(Factors):
    """Factors of a weight in G independent groups: a [N, G, S, I] and g [N, G, S, O] give dw [G O, I]."""

    @property
    def axes(self) -> int:
        return 4

    @property
    def is_outer_product(self) -> bool:
        return False

    def example_gradient(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vmap(super().example_gradient)(a, g).reshape(-1, a.shape[-1])

    def squared_norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(Factors(a, g).squared_norm)(a, g))

    @over_leading_axes
    def gradient(self) -> jax.Array:
        return jnp.einsum("nkso,nksi->koi", self.g, self.a).reshape(-1, self.a.shape[-1])

    @over_leading_axes
    def kronecker(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """(G [..., G, O, O], A [..., G, I, I]): a pair for each group."""
        return jax.vmap(lambda a, g: Factors(a, g).kronecker(weight, sharing), in_axes=1)(self.a, self.g)


def tree_map(f: Callable[..., Any], factors: Any, *rest: Any) -> Any:
    """jax.tree.map over trees whose leaves are Factors; `rest` may have a subtree at each of these leaves."""
    return jax.tree.map(f, factors, *rest, is_leaf=lambda node: isinstance(node, Factors))


def total(term: Callable[..., Any], *arrays: jax.Array) -> Any:
    """The sum of term(entry, ...) over the entries along the arrays' first axis, with one term at a time in memory."""
    shapes = jax.eval_shape(term, *(a[0] for a in arrays))
    add = lambda sums, entries: (jax.tree.map(jnp.add, sums, term(*entries)), None)
    return jax.lax.scan(add, jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), shapes), arrays)[0]
