"""Losses own their value and their delta (BP1), and penalties on parameters their value and gradient.

The caller's weights do all averaging: value = sum_n weight_n items_n, dy_n = weight_n deltas_n. With weights of 1/N
it is the mean over the batch, with ones the sum, and masked rows have weight 0. The conventions of the literature for
squared error, with e = y - t over O outputs:

| name | one item | with weights 1/N |
|---|---|---|
| half_sum | sum_o e^2 / 2 | 1/(2N) sum: Nielsen's quadratic cost, Caffe's Euclidean loss; Mazur's 1/2 sum at N = 1 |
| sum | sum_o e^2 | squared Euclidean distance |
| mean | sum_o e^2 / O | the mean squared error of PyTorch and scikit-learn |
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxbp.core import Layer, PyTree, Static, path_name
from jaxbp.deferred import Deferred, deferred
from jaxbp.errors import InputError
from jaxbp.ops import chunked_cross_entropy as chunks
from jaxbp.trees import like, plain
from jaxbp.typed import Count, Fraction, NotNegative, Pattern, Positive, Typed


@dataclass(frozen=True)
class Loss(Typed, ABC):
    """Items and their deltas; the weights are applied here, once for all losses.

    Outputs y are [..., O]; a target is like y, or [...] integer classes where the loss says so; weights are [...].
    Values are computed in the wider dtype of y and weights, and dy has the dtype of y.
    """

    threshold: ClassVar[float] = 0.5  # one output means class 1 where it is above this

    @property
    def is_likelihood(self) -> bool:
        """Whether it is a negative log-likelihood in its natural parameters, so that J^T H J is the Fisher matrix."""
        return False

    def prepared(self, model: Layer) -> Layer:
        """The model whose output goes into `forward` in training and evaluation: the model itself, for most losses."""
        return model

    def prediction(self, y: Any) -> Any:
        """What outputs [..., O] say of the target: themselves, for most losses."""
        return y

    @abstractmethod
    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        """-> (loss of each item [...], cache)."""
        raise NotImplementedError

    @abstractmethod
    def deltas(self, cache: PyTree) -> jax.Array:
        """The derivative of each item's own loss in y, like y."""
        raise NotImplementedError

    def forward(self, y: jax.Array, target: jax.Array, weight: jax.Array) -> tuple[jax.Array, PyTree]:
        """-> (value, cache)."""
        self.check_shapes(y.shape, target, weight)
        weight = weight.astype(max(weight.dtype, y.dtype, key=lambda dtype: dtype.itemsize))
        if jnp.issubdtype(target.dtype, jnp.floating):
            target = target.astype(weight.dtype)
        items, cache = self.items(y.astype(weight.dtype), target)
        return jnp.sum(jnp.where(weight == 0, 0, weight * items)), (cache, weight, Static(y.dtype))

    def backward(self, cache: PyTree) -> jax.Array:
        """-> dy, BP1."""
        items_cache, weight, dtype = cache
        weight = weight[..., None]
        deltas = jnp.where(weight == 0, 0, weight * self.deltas(items_cache))  # a row of weight 0 may hold inf or nan
        return deltas.astype(dtype.value)

    def check_shapes(self, y: tuple[int, ...], target: jax.Array, weight: jax.Array) -> None:
        """Raises InputError where target or weight do not fit outputs of shape y."""
        if weight.shape != y[:-1]:
            raise InputError(
                f"{type(self).__name__}: outputs {list(y)} need weights {list(y[:-1])}, got {list(weight.shape)}"
            )
        self.check(y, target.shape, jnp.issubdtype(target.dtype, jnp.floating))

    def check(self, y: tuple[int, ...], target: tuple[int, ...], is_float: bool) -> None:
        """Raises InputError where shapes or kinds of output and target do not fit this loss."""
        if not is_float or y != target:
            kind = "float" if is_float else "integer"
            raise InputError(
                f"{type(self).__name__}: outputs {list(y)} need float targets of the same shape, got "
                f"{kind} {list(target)} (class labels become such targets with one_hot=True in the data)"
            )


@dataclass(frozen=True)
class SquaredError(Loss):
    """e = y - t, scaled as the module's table says; delta = e, 2 e or 2 e / O.

    Args:
        scale: of the sum of squares over the outputs
    """

    scale: Literal["half_sum", "sum", "mean"] = "half_sum"

    @property
    def is_likelihood(self) -> bool:
        return True

    def factor(self, outputs: int) -> float:
        """What the sum of squares is multiplied by."""
        return {"half_sum": 0.5, "sum": 1.0, "mean": 1 / outputs}[self.scale]

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        error = y - target
        return self.factor(y.shape[-1]) * jnp.einsum("...o,...o->...", error, error), error

    def deltas(self, error: jax.Array) -> jax.Array:
        return error if self.scale == "half_sum" else 2 * self.factor(error.shape[-1]) * error


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """sum_o |e|; delta = sign e, 0 at 0."""

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        error = y - target
        return jnp.sum(jnp.abs(error), -1), error

    def deltas(self, error: jax.Array) -> jax.Array:
        return jnp.sign(error)


@dataclass(frozen=True)
class Huber(Loss):
    """sum_o e^2 / 2 where |e| <= width, else width (|e| - width / 2) (Huber 1964); delta = e cut to [-width, width].

    Args:
        width: where the square becomes a line
    """

    width: Positive = 1.0

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        cut = jnp.clip(y - target, -self.width, self.width)
        return jnp.sum(cut * (y - target - cut / 2), -1), cut

    def deltas(self, cut: jax.Array) -> jax.Array:
        return cut


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """From logits: sum_o ln(1 + e^y) - t y with t in [0, 1]; delta = sigmoid(y) - t.

    Targets are [..., O], or integer labels 0 and 1 [...] for a single output. label_smoothing s in [0, 1) puts t at
    t (1 - s) + s / 2.

    Args:
        label_smoothing: probability spread over all classes
    """

    label_smoothing: Fraction = 0.0
    threshold: ClassVar[float] = 0.0

    @property
    def is_likelihood(self) -> bool:
        return True

    def check(self, y: tuple[int, ...], target: tuple[int, ...], is_float: bool) -> None:
        if is_float or target != y[:-1] or y[-1] != 1:
            super().check(y, target, is_float)

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        target = target.reshape(y.shape).astype(y.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = target * jax.nn.softplus(-y) + (1 - target) * jax.nn.softplus(y)  # exact for confident outputs too
        return jnp.sum(losses, -1), (y, target)

    def deltas(self, cache: PyTree) -> jax.Array:
        y, target = cache
        return jax.nn.sigmoid(y) - target


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """From logits, with L = ln sum_o e^y_o: L - sum_o t_o y_o + z_loss L^2; delta = (1 + 2 z_loss L) softmax(y) - t.

    Targets are integer classes [...] or distributions [..., O]. label_smoothing s in [0, 1) puts t at
    t (1 - s) + s / O. A class outside 0..O-1 gives NaN.

    With a chunk, training and evaluation never hold the logits of more rows than that: the model's last Dense is put
    off, and the loss applies it (`jaxbp.ops.linear_cross_entropy`). The targets are classes then.

    Args:
        label_smoothing: probability spread over all classes
        z_loss: times the squared logarithm of the normalizer is added
        chunk: rows whose logits exist at once, for many classes; None: all
    """

    label_smoothing: Fraction = 0.0
    z_loss: NotNegative = 0.0
    chunk: Count | None = None

    @property
    def is_likelihood(self) -> bool:
        return self.z_loss == 0

    def prepared(self, model: Layer) -> Layer:
        """With a chunk, the model without its last product. Raises InputError where the last layer is no Dense."""
        return model if self.chunk is None else deferred(model)

    def form(self, y: Deferred) -> chunks.Form:
        """What the operation on rows is told."""
        return chunks.Form(self.chunk or max(1, y.x.size), self.label_smoothing, self.z_loss, y.soft_cap, y.axis)

    def forward(self, y: Any, target: jax.Array, weight: jax.Array) -> tuple[jax.Array, PyTree]:
        """-> (value, cache), for logits or a Deferred."""
        if not isinstance(y, Deferred):
            return super().forward(y, target, weight)
        self.check_shapes(y.shape, target, weight)
        items, gradients = chunks.differentiated(self.form(y), y.x, y.w, y.b, target, weight)
        return chunks.weighted_sum(weight, items), Deferred(*gradients)

    def backward(self, cache: PyTree) -> Any:
        """-> dy like y, BP1."""
        return cache if isinstance(cache, Deferred) else super().backward(cache)

    def scored(self, y: Deferred, target: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> (value, the class with the largest logit [...])."""
        self.check_shapes(y.shape, target, weight)
        items, classes = chunks.scored(self.form(y), y.x, y.w, y.b, target)
        return chunks.weighted_sum(weight, items), classes

    def check(self, y: tuple[int, ...], target: tuple[int, ...], is_float: bool) -> None:
        _check_classes(self, y, target, is_float, or_distributions=self.chunk is None)

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        top = jnp.max(y, -1, keepdims=True)
        e = jnp.exp(y - top)
        total = jnp.sum(e, -1)
        log_total = jnp.log(total) + top[..., 0]
        s = self.label_smoothing
        if target.ndim == y.ndim:
            target = (1 - s) * target + s / y.shape[-1]
            items = jnp.sum(target * (log_total[..., None] - y), -1)
            slope = jnp.sum(target, -1)
        else:
            spread = s * jnp.mean(y, -1) if s else 0
            items = log_total - (1 - s) * _own(y, target)[..., 0] - spread
            slope = jnp.ones_like(total)
        if self.z_loss:
            items = items + self.z_loss * log_total**2
            slope = slope + 2 * self.z_loss * log_total
        return items, (e, slope / total, target)

    def deltas(self, cache: PyTree) -> jax.Array:
        e, slope, target = cache
        if target.ndim == e.ndim:
            return e * slope[..., None] - target
        s = self.label_smoothing
        outputs = e.shape[-1]
        classes = jax.lax.broadcasted_iota(target.dtype, e.shape, e.ndim - 1)
        return e * slope[..., None] - jnp.where(classes == target[..., None], 1 - s + s / outputs, s / outputs)


@dataclass(frozen=True)
class MulticlassHinge(Loss):
    """sum over o != t of max(0, y_o - y_t + margin) for integer classes t (Weston & Watkins 1999).

    delta_o = 1 where the margin is violated, and minus their count at t. A class outside 0..O-1 gives NaN.

    Args:
        margin: by which the right output must be ahead
    """

    margin: float = 1.0

    def check(self, y: tuple[int, ...], target: tuple[int, ...], is_float: bool) -> None:
        _check_classes(self, y, target, is_float, or_distributions=False)

    def items(self, y: jax.Array, target: jax.Array) -> tuple[jax.Array, PyTree]:
        own = jax.lax.broadcasted_iota(target.dtype, y.shape, y.ndim - 1) == target[..., None]
        excess = jnp.where(own, 0, y - _own(y, target) + self.margin)
        return jnp.sum(jnp.maximum(excess, 0), -1), (excess > 0, own, Static(y.dtype))

    def deltas(self, cache: PyTree) -> jax.Array:
        violated, own, dtype = cache
        count = jnp.sum(violated, -1, keepdims=True, dtype=dtype.value)
        return violated.astype(dtype.value) - jnp.where(own, count, 0)


def _own(y: jax.Array, classes: jax.Array) -> jax.Array:
    """[..., 1]: the output at each item's own class; NaN for a class that does not exist, a negative one too."""
    classes = jnp.where(classes < 0, y.shape[-1], classes)  # JAX would count negative ones from the end
    return jnp.take_along_axis(y, classes[..., None], -1, mode="fill", fill_value=jnp.nan)


def _check_classes(
    loss: Loss, y: tuple[int, ...], target: tuple[int, ...], is_float: bool, or_distributions: bool
) -> None:
    soft = or_distributions and is_float and target == y
    if not soft and (is_float or target != y[:-1]):
        also = f" or float targets {list(y)}" if or_distributions else ""
        raise InputError(
            f"{type(loss).__name__}: outputs {list(y)} need integer classes {list(y[:-1])}{also}, "
            f"got {'float' if is_float else 'integer'} {list(target)}"
        )


@dataclass(frozen=True)
class Penalty(Typed):
    """A term of the loss in the parameters whose path ('00_dense/w') the regular expression matches in full.

    l2 / 2 sum w^2 + l1 sum |w|; gradient l2 w + l1 sign w, 0 at 0. Both at least 0.

    Args:
        l2: half of it times the sum of squares is added to the loss
        l1: times the sum of magnitudes
        paths: of the parameters that count
    """

    l2: NotNegative = 0.0
    l1: NotNegative = 0.0
    paths: Pattern = r".*/w"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.paths != r".*/w" and not (self.l2 or self.l1):
            raise InputError(f"Penalty: paths='{self.paths}' chooses nothing while l2 and l1 are 0")

    def value(self, params: PyTree) -> jax.Array:
        """The penalty, a scalar."""
        terms = [
            self.l2 / 2 * jnp.sum(w * w) + self.l1 * jnp.sum(jnp.abs(w))
            for w in jax.tree.leaves(self.chosen(plain(params)))
        ]
        return reduce(jnp.add, terms)

    def gradient(self, params: PyTree) -> PyTree:
        """Like params: zero where the expression does not match."""
        slope = lambda p, w: jnp.zeros_like(p) if w is None else self.l2 * w + self.l1 * jnp.sign(w)
        weights = plain(params)
        slopes = jax.tree.map(slope, weights, self.chosen(weights), is_leaf=lambda leaf: leaf is None)
        return like(params, slopes)

    def curvature(self, params: PyTree) -> PyTree:
        """Like params, the second derivative: l2 where the expression matches, else 0."""
        curvature = lambda p, w: jnp.full_like(p, 0 if w is None else self.l2)
        return jax.tree.map(curvature, params, self.chosen(params), is_leaf=lambda leaf: leaf is None)

    def chosen(self, params: PyTree) -> PyTree:
        """params with None in place of what is not matched. Raises InputError where nothing is."""
        matches = lambda path: re.fullmatch(self.paths, path_name(path))
        chosen = jax.tree_util.tree_map_with_path(lambda path, p: p if matches(path) else None, params)
        if not jax.tree.leaves(chosen):
            names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise InputError(f"Penalty: '{self.paths}' matches no parameter (there are: {', '.join(names)})")
        return chosen
