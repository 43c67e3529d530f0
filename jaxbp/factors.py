"""The factors of a weight gradient, activation and delta, and what is known from them without forming the gradient.

A weight that meets activations a_ns and deltas g_ns at the positions s of example n has the gradient

    dw = sum_n dw_n,   dw_n[o, i] = sum_s g_ns[o] a_ns[i]

and with both at hand dw_n is formed for as few examples at a time as one likes, or not at all:

    |dw_n|^2 = sum_st (a_ns . a_nt)(g_ns . g_nt)                                     (Goodfellow 2015, arXiv 1510.01799)

A kind of factors says what one example's gradient is and its norm; the rest is written once, for all kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, Literal

import jax
import jax.numpy as jnp

register_factors = partial(jax.tree_util.register_dataclass, data_fields=["a", "g"])
BLOCK = 2**19  # numbers that are made at once: 2 MiB in float32
Sharing = Literal["expand", "reduce"]


def over_leading(method: Callable) -> Callable:
    """The method with axes before the batch (the depth of a Stack) gone through one entry at a time."""

    @wraps(method)
    def run(self: Factors, *arguments: Any) -> Any:
        if self.a.ndim == self.axes:
            return method(self, *arguments)
        return jax.lax.map(lambda entry: run(entry, *arguments), self)

    return run


@partial(register_factors, meta_fields=[])
@dataclass(frozen=True)
class Factors:
    """Activation a [N, S, I] and delta g [N, S, O]: dw[o, i] = sum_ns g[nso] a[nsi]. Axes may lead both.

    The gradient has the leaf's entries; its shape is the caller's to restore.
    """

    a: jax.Array
    g: jax.Array

    @classmethod
    def of_bias(cls, g: jax.Array) -> Factors:
        """Where the activation is one, the deltas g [N, S, O] of all positions are one, their sum."""
        g = jnp.sum(g, 1, keepdims=True)
        return cls(jnp.ones_like(g[..., :1]), g)

    @property
    def axes(self) -> int:
        """Axes of `a` from the batch on."""
        return 3

    @property
    def single(self) -> bool:
        """Whether a product of two vectors is all that each example gives."""
        return self.a.shape[-2] == 1

    @property
    def entries(self) -> int:
        """How many numbers are made for one example's norm."""
        return min(self.a.shape[-1] * self.g.shape[-1], self.a.shape[-2] ** 2)

    def alone(self, a: jax.Array, g: jax.Array) -> jax.Array:
        """[O, I]: the gradient of one example with a [S, I] and g [S, O]."""
        return jnp.einsum("so,si->oi", g, a)

    def norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        """Its squared norm, by the cheaper side; a product that is summed up at once costs half of one that is kept."""
        (s, i), o = a.shape, g.shape[-1]
        if 2 * i * o < s * (i + o):
            return jnp.sum(jnp.square(self.alone(a, g)))
        return jnp.sum(jnp.einsum("si,ti->st", a, a) * jnp.einsum("so,to->st", g, g))

    @over_leading
    def gradient(self) -> jax.Array:
        """The whole batch's gradient, [..., O, I]."""
        return jnp.einsum("nso,nsi->oi", self.g, self.a)

    @over_leading
    def examples(self) -> jax.Array:
        """[..., N, O, I]: each example's own part of the gradient."""
        return jax.vmap(self.alone)(self.a, self.g)

    @over_leading
    def squared_norms(self) -> jax.Array:
        """[..., N]: of each example's part, some examples at a time."""
        if self.single:
            return jnp.einsum("nsi,nsi->n", self.a, self.a) * jnp.einsum("nso,nso->n", self.g, self.g)
        n = len(self.a)
        if n * self.entries <= BLOCK:
            return jax.vmap(self.norm)(self.a, self.g)
        at_once = max((k for k in range(1, n) if n % k == 0 and k * self.entries <= BLOCK), default=1)
        return jax.lax.map(lambda pair: self.norm(*pair), (self.a, self.g), batch_size=at_once)

    @over_leading
    def inner_products(self) -> jax.Array:
        """[..., N, N]: of the parts of every two examples; they are formed only where one has several positions."""
        if self.single:
            return jnp.einsum("nsi,msi->nm", self.a, self.a) * jnp.einsum("nso,mso->nm", self.g, self.g)
        each = self.examples()
        return jnp.einsum("noi,moi->nm", each, each)

    @over_leading
    def second_moment(self) -> jax.Array:
        """[..., O, I]: the sum over the examples of the squares of their parts."""
        if self.single:
            return Factors(jnp.square(self.a), jnp.square(self.g)).gradient()
        return total(lambda a, g: jnp.square(self.alone(a, g)), self.a, self.g)

    @over_leading
    def moments(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """Rows [..., O, O] and columns [..., I, I], whose Kronecker product is near sum_n vec(dw_n) vec(dw_n)^T.

        expand:  sum_ns g_ns g_ns^T   and  sum_ns weight_n / S a_ns a_ns^T, positions as if they were examples
        reduce:  the same of sum_s g_ns and of mean_s a_ns

        weight [N] adds up to one (Eschenhagen et al. 2023, arXiv 2311.00636, section 3). A diagonal one is [..., O].
        """
        a, g = self.a, self.g
        if sharing == "reduce":
            a, g = jnp.mean(a, 1, keepdims=True), jnp.sum(g, 1, keepdims=True)
        weighted = a * (weight / a.shape[1])[:, None, None].astype(a.dtype)
        return jnp.einsum("nso,nsp->op", g, g), jnp.einsum("nsi,nsj->ij", weighted, a)

    def scaled(self, scale: jax.Array) -> Factors:
        """Each example's gradient times its entry of scale [N]."""
        return replace(self, g=self.g * scale.reshape(-1, *(1,) * (self.axes - 1)).astype(self.g.dtype))

    def joined(self, other: Factors) -> Factors:
        """Of a parameter that is used twice: the positions of both."""
        return replace(self, a=jnp.concatenate([self.a, other.a], -2), g=jnp.concatenate([self.g, other.g], -2))


@partial(register_factors, meta_fields=[])
@dataclass(frozen=True)
class GroupedFactors(Factors):
    """Factors of a weight in groups that do not meet: a [N, G, S, I] and g [N, G, S, O] give dw [G O, I]."""

    @property
    def axes(self) -> int:
        return 4

    @property
    def single(self) -> bool:
        return False

    def alone(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vmap(super().alone)(a, g).reshape(-1, a.shape[-1])

    def norm(self, a: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(Factors(a, g).norm)(a, g))

    @over_leading
    def gradient(self) -> jax.Array:
        return jnp.einsum("nkso,nksi->koi", self.g, self.a).reshape(-1, self.a.shape[-1])

    @over_leading
    def moments(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """A pair for each group, [..., G, O, O] and [..., G, I, I]."""
        return jax.vmap(lambda a, g: Factors(a, g).moments(weight, sharing), in_axes=1)(self.a, self.g)


def total(one: Callable[..., Any], *arrays: jax.Array) -> Any:
    """The sum of `one` over the entries along the arrays' first axis, a single term at a time in memory."""
    term = jax.eval_shape(one, *(a[0] for a in arrays))
    add = lambda sums, entry: (jax.tree.map(jnp.add, sums, one(*entry)), None)
    return jax.lax.scan(add, jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), term), arrays)[0]
