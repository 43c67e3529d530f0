"""What each example of a batch contributes to the gradient: norms, inner products, clipping, the noise between them.

Example n contributes g_n = d(sum of its items' w l) / dparams: their sum is the gradient of value_and_grad, and with
weights of one each is the example's own gradient. A weight that meets activations a and deltas d at positions s gets
g_n = sum_s d_ns a_ns^T, and

    |g_n|^2 = sum_st (a_ns . a_nt)(d_ns . d_nt)                                      (Goodfellow 2015, arXiv 1510.01799)

so one forward pass and one reverse sweep give all norms, and g_n is formed only where that is cheaper (the factors'
`squared_norms` decides). Layers that mix the examples of a batch are refused, for there g_n is not defined. Batch
normalization mixes them in training, and not in evaluation.

Clipping adds up c_n g_n with c_n = min(1, norm / |g_n|): the sum that differentially private training adds its noise to
(Abadi et al. 2016, arXiv 1607.00133). c is known only after a reverse sweep. Either a second sweep follows, with the
deltas of example n times c_n ("recomputed"), or the factors of the first sweep are kept and contracted ("kept").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp import rules
from jaxbp.core import Batch, Context, Layer, PyTree, dot
from jaxbp.errors import InputError, unknown
from jaxbp.factors import tree_map
from jaxbp.losses import Loss

Memory = Literal["kept", "recomputed"]


class FactoredPass(NamedTuple):
    """One forward pass and one reverse sweep for the factors."""

    value: jax.Array
    output: PyTree
    cache: PyTree
    dy: PyTree
    factors: PyTree  # like params, Factors for each leaf


class Clipped(NamedTuple):
    """The clipped gradient, with the loss and the norms before clipping."""

    value: jax.Array
    grads: PyTree  # like params
    norms: jax.Array  # [N]


def factored_pass(model: Layer, loss: Loss, params: PyTree, batch: Batch, ctx: Context) -> FactoredPass:
    """Raises InputError where a layer mixes the examples of a batch."""
    x, ctx = ctx.counted(batch)
    y, cache = model.forward(params, x, ctx)
    value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
    dy = loss.backward(loss_cache)
    _, factors = model.sweep(rules.factors, params, cache, dy)
    return FactoredPass(value, y, cache, dy, factors)


def squared_norms(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, |g_n|^2 [N] of each leaf; their sum is that of the whole gradient."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        return _squared_norms(factored_pass(model, loss, params, batch, ctx).factors)

    return run


def inner_products(model: Layer, loss: Loss) -> Callable[..., jax.Array]:
    """(params, batch, ctx) -> [N, N], g_n . g_m over all parameters."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> jax.Array:
        factors = factored_pass(model, loss, params, batch, ctx).factors
        return _tree_sum(tree_map(lambda leaf: _sum_leading(leaf.inner_products(), 2), factors))

    return run


def second_moment(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, sum_n g_n^2: with weights of one, N times the empirical Fisher diagonal."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        factors = factored_pass(model, loss, params, batch, ctx).factors
        return _shaped_like(params, tree_map(lambda leaf: leaf.second_moment(), factors))

    return run


def clipped_gradient(
    model: Layer, loss: Loss, norm: float, reduction: Literal["sum", "mean"], memory: Memory = "recomputed"
) -> Callable[..., Clipped]:
    """(params, batch, ctx) -> Clipped: each g_n cut to a norm of at most `norm`, then added up or averaged over N.

    Differential privacy needs weights of one. memory: "recomputed" takes two reverse sweeps in the memory of one,
    "kept" takes one sweep and keeps its factors. Raises InputError for a norm that is not above 0, for other words, and
    where a layer mixes the examples of a batch.
    """
    if not norm > 0:
        raise InputError(f"clipped_gradient: norm must be above 0, got {norm}")
    if reduction not in ("sum", "mean"):
        raise unknown("clipped_gradient reduction", reduction, ("sum", "mean"))
    if memory not in ("kept", "recomputed"):
        raise unknown("clipped_gradient memory", memory, ("kept", "recomputed"))

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Clipped:
        factored = factored_pass(model, loss, params, batch, ctx)
        n = len(factored.dy)
        share = jnp.full(n, 1 / n if reduction == "mean" else 1)
        grads, norms = clipped(model, params, factored, norm, share, memory)
        return Clipped(factored.value, grads, norms)

    return run


def clipped(
    model: Layer, params: PyTree, factored: FactoredPass, norm: float, share: jax.Array, memory: Memory
) -> tuple[PyTree, jax.Array]:
    """-> (sum_n share_n min(1, norm / |g_n|) g_n like params, |g_n| [N])."""
    norms = jnp.sqrt(_tree_sum(_squared_norms(factored.factors)))
    scale = share * jnp.minimum(1, norm / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny))
    if memory == "kept":
        grads = tree_map(lambda leaf: leaf.scaled(scale).gradient(), factored.factors)
        return _shaped_like(params, grads), norms
    scaled = lambda d: d * scale.reshape(-1, *(1,) * (d.ndim - 1)).astype(d.dtype)
    return model.backward(params, factored.cache, jax.tree.map(scaled, factored.dy))[1], norms


def shares(weight: jax.Array) -> jax.Array:
    """[N]: the weight of each example, summed over its items."""
    return jnp.sum(weight.reshape(len(weight), -1), 1)


def cosines(products: jax.Array) -> jax.Array:
    """[N, N] inner products -> [N, N] cosines of the angles; 0 beside a gradient of zero."""
    norms = jnp.sqrt(jnp.diagonal(products))
    lengths = norms[:, None] * norms
    return jnp.where(lengths > 0, products / jnp.where(lengths > 0, lengths, 1), 0)


def grouped(products: jax.Array, groups: jax.Array, count: int) -> jax.Array:
    """[N, N] inner products of examples -> [count, count] of the sums over groups; groups [N] are their numbers."""
    member = jax.nn.one_hot(groups, count, dtype=products.dtype)
    return jnp.einsum("nm,ng,mh->gh", products, member, member)


def variance(moment: PyTree, grads: PyTree, count: int | jax.Array) -> PyTree:
    """Like params: the unbiased variance of one example's gradient, entry by entry.

    From the second moment and the gradient of `count` examples, at least 2, with equal weights 1 / count.
    """
    return jax.tree.map(lambda m, g: (count * m - g * g) * count / (count - 1), moment, grads)


def signal_to_noise(grads: PyTree, variance: PyTree) -> PyTree:
    """Like params: squared mean over variance, 0 where both are (Liu et al. 2020, arXiv 2001.07384, definition 1)."""
    return jax.tree.map(lambda g, v: jnp.where(g == 0, 0, g * g / v), grads, variance)


class Noise(NamedTuple):
    """Unbiased estimates from one batch of N; average each over steps before dividing them."""

    variance: jax.Array  # trace of the covariance of a single example's gradient
    signal: jax.Array  # |G|^2 of the true gradient; may come out below 0

    @property
    def scale(self) -> jax.Array:
        """The batch size at which noise and signal are as large (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.9)."""
        return self.variance / self.signal


def noise(norms: jax.Array, grads: PyTree, count: int | jax.Array | None = None) -> Noise:
    """From squared norms [N] and the gradient, both with equal weights 1 / N; N at least 2 (their appendix A.1).

    count: the number of examples that have this weight, if the others have none.
    """
    n = len(norms) if count is None else count
    single = n * jnp.sum(norms)
    batch = dot(grads, grads)
    return Noise((single - batch) * n / (n - 1), (n * batch - single) / (n - 1))


def _squared_norms(factors: PyTree) -> PyTree:
    return tree_map(lambda leaf: _sum_leading(leaf.squared_norms(), 1), factors)


def _sum_leading(a: jax.Array, last: int) -> jax.Array:
    """The sum over all but the last axes: in a Stack, its depth leads."""
    return jnp.sum(a, range(a.ndim - last))


def _tree_sum(tree: PyTree) -> jax.Array:
    """The sum of the tree's arrays."""
    return jax.tree.reduce(jnp.add, tree)


def _shaped_like(params: PyTree, gradients: PyTree) -> PyTree:
    return jax.tree.map(lambda p, g: g.reshape(p.shape), params, gradients)
