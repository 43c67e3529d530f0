"""What each example of a batch contributes to the gradient: norms, inner products, clipping, the noise between them.

Example n contributes g_n = d(sum of its items' w l) / dparams: their sum is the gradient of value_and_grad, and with
weights of one each is the example's own gradient. A weight that meets activations a and deltas d at positions s gets
g_n = sum_s d_ns a_ns^T, and

    |g_n|^2 = sum_st (a_ns . a_nt)(d_ns . d_nt)                                      (Goodfellow 2015, arXiv 1510.01799)

so one forward pass and one reverse sweep give all norms, and g_n is formed only where that is cheaper (the factors'
`squared_norms` decides). Layers that couple the examples of a batch are refused: there nobody's part is his own.

Clipping adds up c_n g_n with c_n = min(1, norm / |g_n|): the sum that differentially private training adds its noise to
(Abadi et al. 2016, arXiv 1607.00133). The second reverse sweep has the deltas of example n times c_n; or the factors of
the first are kept until c is known, and contracted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxbp.core import Batch, Context, Layer, PyTree, label, leaf_layers
from jaxbp.errors import InputError, unknown
from jaxbp.factors import Factors
from jaxbp.losses import Loss
from jaxbp.rules import factors


class Swept(NamedTuple):
    """One forward pass and one reverse sweep for the factors."""

    value: jax.Array
    output: PyTree
    cache: PyTree
    dy: PyTree
    factors: PyTree  # like params, an Factors for each leaf


class Clipped(NamedTuple):
    """The clipped gradient and what it was made of."""

    value: jax.Array  # the loss, not clipped
    grads: PyTree  # like params
    norms: jax.Array  # [N], before clipping


def sweep(model: Layer, loss: Loss, params: PyTree, batch: Batch, ctx: Context) -> Swept:
    """Raises InputError where a layer couples the examples of a batch."""
    if coupled := [label(leaf) for leaf in leaf_layers(model) if leaf.couples_batch]:
        raise InputError(f"no example has a gradient of its own through '{coupled[0]}': it couples a batch's examples")
    y, cache = model.forward(params, batch["x"], ctx)
    value, loss_cache = loss.forward(y, batch["y"], batch["weight"])
    dy = loss.backward(loss_cache)
    return Swept(value, y, cache, dy, model.sweep(factors, params, cache, dy)[1])


def squared_norms(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, |g_n|^2 [N] of each leaf; their sum is that of the whole gradient."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        return each_leaf(_norms, sweep(model, loss, params, batch, ctx).factors)

    return run


def inner_products(model: Layer, loss: Loss) -> Callable[..., jax.Array]:
    """(params, batch, ctx) -> [N, N], g_n . g_m over all parameters."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> jax.Array:
        product = lambda outer: _over_leading(outer.inner_products(), 2)
        return sum(jax.tree.leaves(each_leaf(product, sweep(model, loss, params, batch, ctx).factors)))

    return run


def second_moment(model: Layer, loss: Loss) -> Callable[..., PyTree]:
    """(params, batch, ctx) -> like params, sum_n g_n^2: with weights of one, N times the empirical Fisher diagonal."""

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> PyTree:
        squares = each_leaf(lambda outer: outer.second_moment(), sweep(model, loss, params, batch, ctx).factors)
        return _shaped_like(params, squares)

    return run


def clipped_gradient(
    model: Layer, loss: Loss, norm: float, reduction: Literal["sum", "mean"], sweeps: Literal["one", "two"] = "two"
) -> Callable[..., Clipped]:
    """(params, batch, ctx) -> Clipped: each g_n cut to a norm of at most `norm`, then added up or averaged over N.

    Differential privacy needs weights of one. sweeps: "two" reverse sweeps in the memory of one, or "one" whose factors
    are kept. Raises InputError for a norm that is not above 0, and for other words.
    """
    if not norm > 0:
        raise InputError(f"clipped_gradient: norm must be above 0, got {norm}")
    for name, given, allowed in (("reduction", reduction, ("sum", "mean")), ("sweeps", sweeps, ("one", "two"))):
        if given not in allowed:
            raise unknown(f"clipped_gradient {name}", given, allowed)

    def run(params: PyTree, batch: Batch, ctx: Context = Context()) -> Clipped:
        swept = sweep(model, loss, params, batch, ctx)
        n = len(swept.dy)
        grads, norms = clipped(model, params, swept, norm, jnp.full(n, 1 / n if reduction == "mean" else 1), sweeps)
        return Clipped(swept.value, grads, norms)

    return run


def clipped(
    model: Layer, params: PyTree, swept: Swept, norm: float, share: jax.Array, sweeps: Literal["one", "two"]
) -> tuple[PyTree, jax.Array]:
    """-> (sum_n share_n min(1, norm / |g_n|) g_n, |g_n| [N])."""
    norms = jnp.sqrt(sum(jax.tree.leaves(each_leaf(_norms, swept.factors))))
    scale = share * jnp.minimum(1, norm / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny))
    if sweeps == "one":
        return _shaped_like(params, each_leaf(lambda outer: outer.scaled(scale).gradient(), swept.factors)), norms
    scaled = lambda d: d * scale.reshape(-1, *(1,) * (d.ndim - 1)).astype(d.dtype)
    return model.backward(params, swept.cache, jax.tree.map(scaled, swept.dy))[1], norms


def shares(weight: jax.Array) -> jax.Array:
    """[N]: the weight of each example, all its items together."""
    return jnp.sum(weight.reshape(len(weight), -1), 1)


def cosines(products: jax.Array) -> jax.Array:
    """[N, N] inner products -> [N, N] cosines of the angles; 0 beside a gradient of zero."""
    norms = jnp.sqrt(jnp.diagonal(products))
    lengths = norms[:, None] * norms
    return jnp.where(lengths > 0, products / jnp.where(lengths > 0, lengths, 1), 0)


def grouped(products: jax.Array, groups: jax.Array, count: int) -> jax.Array:
    """[N, N] inner products of examples -> [count, count] of the sums over groups, whose number groups [N] says."""
    member = jax.nn.one_hot(groups, count, dtype=products.dtype)
    return jnp.einsum("nm,ng,mh->gh", products, member, member)


def variance(moment: PyTree, grads: PyTree, count: int | jax.Array) -> PyTree:
    """Like params: the unbiased variance of one example's gradient, entry by entry.

    Of the second moment and the gradient of `count` examples, at least 2, with equal weights 1 / count.
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
    """Of squared norms [N] and the gradient, both with equal weights 1 / N; N at least 2 (their appendix A.1).

    count: how many of the examples have that weight, where others have none.
    """
    n = len(norms) if count is None else count
    single, batch = n * jnp.sum(norms), sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))
    return Noise((single - batch) * n / (n - 1), (n * batch - single) / (n - 1))


def each_leaf(f: Callable[[Factors], jax.Array], outers: PyTree) -> PyTree:
    """f of the factors of every leaf."""
    return jax.tree.map(f, outers, is_leaf=lambda node: isinstance(node, Factors))


def _norms(outer: Factors) -> jax.Array:
    return _over_leading(outer.squared_norms(), 1)


def _over_leading(a: jax.Array, kept: int) -> jax.Array:
    """The sum over all but the last axes: the depth of a Stack leads."""
    return jnp.sum(a, range(a.ndim - kept))


def _shaped_like(params: PyTree, contracted: PyTree) -> PyTree:
    return jax.tree.map(lambda p, g: g.reshape(p.shape), params, contracted)
