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
from functools import partial, reduce, wraps
from itertools import combinations
from typing import Any, Literal

import jax
import jax.numpy as jnp

register_factors = partial(jax.tree_util.register_dataclass, data_fields=["a", "g"])
NO_ARRAYS: dict[str, Any] = {"a": None, "g": None}
BLOCK = 2**19  # numbers held at once: 2 MiB in float32
Sharing = Literal["expand", "reduce"]


def over_leading_axes(method: Callable) -> Callable:
    """Map the method over any axes before the batch axis (such as a Stack's depth)."""

    @wraps(method)
    def run(self: Factors, *arguments: Any) -> Any:
        if self.leading == 0:
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
    def leading(self) -> int:
        """The number of axes before the batch axis."""
        return self.a.ndim - self.axes

    @property
    def parts(self) -> tuple[Factors, ...]:
        """The factors of one kind each, whose gradients add up to this one's."""
        return (self,)

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

    def inner_product(self, a: jax.Array, g: jax.Array, other: Factors, b: jax.Array, h: jax.Array) -> jax.Array:
        """Of that gradient with the one that factors of another kind, b and h, give the same example."""
        return jnp.vdot(self.example_gradient(a, g), other.example_gradient(b, h))

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
        n = len(jax.tree.leaves(self.g)[0])
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
        scale = scale.reshape(*(1,) * self.leading, -1, *(1,) * (self.axes - 1))
        return replace(self, g=self.g * scale.astype(self.g.dtype))

    def concatenated(self, other: Factors) -> Factors:
        """The factors of a parameter that is used twice: the positions of both uses, of equal kinds in one array."""
        parts = {part.kind: part for part in self.parts}
        for part in other.parts:
            parts[part.kind] = parts[part.kind].with_positions(part) if part.kind in parts else part
        if len(parts) == 1:
            return next(iter(parts.values()))
        dense_last = sorted(parts.values(), key=lambda part: type(part) is Factors)
        return JoinedFactors(
            a=tuple(part.a for part in dense_last),
            g=tuple(part.g for part in dense_last),
            kinds=tuple(part.kind[0] for part in dense_last),
        )

    @property
    def kind(self) -> tuple[Factors, int, int]:
        """These factors without arrays, and the widths I and O: equal where the positions can lie in one array."""
        return replace(self, **NO_ARRAYS), self.a.shape[-1], self.g.shape[-1]

    def with_positions(self, other: Factors) -> Factors:
        """The positions of both, for factors of the same kind."""
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


@partial(register_factors, meta_fields=["kinds"])
@dataclass(frozen=True)
class JoinedFactors(Factors):
    """Factors of a parameter with uses of different kinds, as of a table of embeddings that is the output's weight too.

    a and g hold an array for each of the kinds, which are factors without arrays. The gradients of the kinds have the
    same entries in the same order. They are added in the first one's shape:

        |dw_n|^2 = sum_p |dw_np|^2 + 2 sum_p<q dw_np . dw_nq                             over the kinds p and q
    """

    a: Any
    g: Any
    kinds: tuple[Factors, ...]

    @property
    def leading(self) -> int:
        return self.parts[0].leading

    @property
    def parts(self) -> tuple[Factors, ...]:
        return tuple(replace(kind, a=a, g=g) for kind, a, g in zip(self.kinds, self.a, self.g, strict=True))

    @property
    def is_outer_product(self) -> bool:
        return False

    @property
    def norm_memory(self) -> int:
        return sum(part.norm_memory for part in self.parts)

    def example_gradient(self, a: Any, g: Any) -> jax.Array:
        return _sum_in_first_shape([kind.example_gradient(*pair) for kind, *pair in zip(self.kinds, a, g, strict=True)])

    def squared_norm(self, a: Any, g: Any) -> jax.Array:
        uses = list(zip(self.kinds, a, g, strict=True))
        norms = [kind.squared_norm(a, g) for kind, a, g in uses]
        products = [kind.inner_product(a, g, *other) for (kind, a, g), other in combinations(uses, 2)]
        return reduce(jnp.add, norms) + 2 * reduce(jnp.add, products)

    @over_leading_axes
    def gradient(self) -> jax.Array:
        return _sum_in_first_shape([part.gradient() for part in self.parts])

    @over_leading_axes
    def kronecker(self, weight: jax.Array, sharing: Sharing) -> tuple[jax.Array, jax.Array]:
        """The partial traces of sum_p G_p (x) A_p, whose product has the trace of that sum:

            G = sum_p tr(A_p) G_p,     A = sum_p tr(G_p) A_p / sum_p tr(G_p) tr(A_p)

        Kinds that cannot be added so, because their G or A differ in shape, give the gradient's full matrix as G.
        """
        pairs = [part.kronecker(weight, sharing) for part in self.parts]
        pairs = [(jnp.diag(g) if g.ndim < a.ndim else g, a) for g, a in pairs]
        if len({(g.shape, a.shape) for g, a in pairs}) > 1:
            dw = self.example_gradients()
            dw = dw.reshape(len(dw), 1, -1)
            return Factors(jnp.ones_like(dw[..., :1]), dw).kronecker(weight, sharing)
        trace = lambda matrix: jnp.trace(matrix, axis1=-2, axis2=-1)[..., None, None]
        share = jnp.sum(weight).astype(pairs[0][0].dtype)  # sums of several pairs need G to add up, and A to average
        whole = reduce(jnp.add, [trace(g) * trace(a) for g, a in pairs])
        rows = reduce(jnp.add, [trace(a) * g for g, a in pairs])
        columns = reduce(jnp.add, [trace(g) * a for g, a in pairs])
        return rows / share, columns * share / jnp.where(whole == 0, 1, whole)

    def scaled(self, scale: jax.Array) -> Factors:
        return replace(self, g=tuple(part.scaled(scale).g for part in self.parts))


def _sum_in_first_shape(gradients: list[jax.Array]) -> jax.Array:
    return reduce(jnp.add, [dw.reshape(gradients[0].shape) for dw in gradients])


def tree_map(f: Callable[..., Any], factors: Any, *rest: Any) -> Any:
    """jax.tree.map over trees whose leaves are Factors; `rest` may have a subtree at each of these leaves."""
    return jax.tree.map(f, factors, *rest, is_leaf=lambda node: isinstance(node, Factors))


def total(term: Callable[..., Any], *arrays: Any) -> Any:
    """The sum of term(entry, ...) over the entries along the arrays' first axis, with one term at a time in memory."""
    shapes = jax.eval_shape(term, *jax.tree.map(lambda a: a[0], arrays))
    add = lambda sums, entries: (jax.tree.map(jnp.add, sums, term(*entries)), None)
    return jax.lax.scan(add, jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), shapes), arrays)[0]
