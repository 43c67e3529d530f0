"""Activations: y = f(x) entry by entry, back dx = dy f'(x); and softmax, which couples the entries of the last axis.

Where f' is a function of the output it is computed from y, which the next layer keeps anyway, and x is forgotten:

    Sigmoid    y = 1 / (1 + e^-x)              f' = y (1 - y)
    Tanh       y = tanh x                      f' = 1 - y^2
    ELU        y = x if x > 0 else a (e^x - 1) f' = 1 if y > 0 else y + a
    SELU       y = s ELU(x, a)                 f' = s if y > 0 else y + s a
    Softplus   y = ln(1 + e^x)                 f' = 1 - e^-y
    SoftCap    y = c tanh(x / c)               f' = 1 - (y / c)^2
    Softmax    y_i = e^x_i / sum_j e^x_j       dx_i = y_i (dy_i - sum_j dy_j y_j)

from the mask of the input's sign, one byte an entry,

    ReLU       y = max(x, 0)                   f' = 1 if x > 0 else 0       (0 at 0, as in JAX)
    LeakyReLU  y = x if x >= 0 else slope x    f' = 1 if x >= 0 else slope

and from the input otherwise: forward makes f' too, and keeps it in the place of x. With Phi the normal distribution
function and phi its density,

    SiLU       y = x s, s = sigmoid x          f' = s (1 + x (1 - s))
    GELU       y = x Phi(x)                    f' = Phi(x) + x phi(x)
    GELU tanh  y = x (1 + t) / 2, t = tanh u   f' = (1 + t) / 2 + x (1 - t^2) u' / 2
                   where u = sqrt(2 / pi) (x + 0.044715 x^3)
    Step       y = 1 if x >= 0 else 0          f' = 0: no gradient passes, so backpropagation cannot train below it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Case, Context, Layer, PyTree, normal, off_zero, require, shaped
from jaxbp.errors import InputError, unknown
from jaxbp.letters import Letters
from jaxbp.ops.gated import gelu, gelu_slope, silu_slope
from jaxbp.ops.probabilities import softmax_backward, softmax_forward


class Activation(Layer):
    """A layer with neither parameters nor state that keeps one array, its output."""

    @property
    def letters(self) -> Letters:
        return Letters("F", "F")

    def value(self, x: jax.Array) -> jax.Array:
        """f(x)."""
        raise NotImplementedError

    def slope(self, kept: jax.Array) -> jax.Array:
        """f'(x), from y, or from what forward keeps in its place."""
        raise NotImplementedError

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array]:
        y = self.value(x)
        return y, y

    def backward(self, params: PyTree, kept: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy * self.slope(kept), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(cls(), shaped(5, 3, 7), sample=off_zero)] if has_defaults(cls) else []


class FromInput(Activation):
    """An activation whose slope needs the input, and is kept in its place."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array]:
        return self.value(x), self.slope(x)

    def backward(self, params: PyTree, slope: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return dy * slope, {}


@dataclass(frozen=True)
class Identity(Layer):
    """y = x, for any tree of arrays."""

    def forward(self, params: PyTree, x: PyTree, ctx: Context = Context()) -> tuple[PyTree, None]:
        return x, None

    def backward(self, params: PyTree, cache: None, dy: PyTree) -> tuple[PyTree, PyTree]:
        return dy, {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Identity(), (shaped(5, 3), shaped(5, 2)))]


@dataclass(frozen=True)
class Sigmoid(Activation):
    """The logistic function, into (0, 1)."""

    def value(self, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x)

    def slope(self, y: jax.Array) -> jax.Array:
        return y * (1 - y)


@dataclass(frozen=True)
class Tanh(Activation):
    """Hyperbolic tangent, into (-1, 1)."""

    def value(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x)

    def slope(self, y: jax.Array) -> jax.Array:
        return 1 - y * y


@dataclass(frozen=True)
class ReLU(Activation):
    """Rectified linear unit."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array]:
        return jax.nn.relu(x), x > 0

    def backward(self, params: PyTree, positive: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.where(positive, dy, 0), {}


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """ReLU with a slope below zero (Maas et al. 2013)."""

    negative_slope: float = 0.01

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, jax.Array]:
        return jax.nn.leaky_relu(x, self.negative_slope), x >= 0

    def backward(self, params: PyTree, positive: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.where(positive, dy, self.negative_slope * dy), {}


@dataclass(frozen=True)
class ELU(Activation):
    """Exponential linear unit, alpha > 0 (Clevert et al. 2016, arXiv 1511.07289)."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        require(self, "alpha", self.alpha > 0, "positive")

    def value(self, x: jax.Array) -> jax.Array:
        return jax.nn.elu(x, self.alpha)

    def slope(self, y: jax.Array) -> jax.Array:
        return jnp.where(y > 0, 1, y + self.alpha)


@dataclass(frozen=True)
class SELU(Activation):
    """Self-normalizing ELU (Klambauer et al. 2017, arXiv 1706.02515, eq. 2)."""

    def value(self, x: jax.Array) -> jax.Array:
        return jax.nn.selu(x)

    def slope(self, y: jax.Array) -> jax.Array:
        alpha = 1.6732632423543772848170429916717
        scale = 1.0507009873554804934193349852946
        return jnp.where(y > 0, scale, y + scale * alpha)


@dataclass(frozen=True)
class Softplus(Activation):
    """Smooth ReLU."""

    def value(self, x: jax.Array) -> jax.Array:
        return jax.nn.softplus(x)

    def slope(self, y: jax.Array) -> jax.Array:
        return -jnp.expm1(-y)


@dataclass(frozen=True)
class SoftCap(Activation):
    """Nearly x for small x, and never beyond +-cap; cap > 0 (Gemma Team 2024, arXiv 2408.00118, section 2)."""

    cap: float

    def __post_init__(self) -> None:
        require(self, "cap", self.cap > 0, "positive")

    def value(self, x: jax.Array) -> jax.Array:
        return self.cap * jnp.tanh(x / self.cap)

    def slope(self, y: jax.Array) -> jax.Array:
        return 1 - jnp.square(y / self.cap)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(SoftCap(2.0), shaped(5, 3, 7))]


@dataclass(frozen=True)
class SiLU(FromInput):
    """x sigmoid(x), also called swish (Ramachandran et al. 2017, arXiv 1710.05941)."""

    def value(self, x: jax.Array) -> jax.Array:
        return jax.nn.silu(x)

    def slope(self, x: jax.Array) -> jax.Array:
        return silu_slope(x)


@dataclass(frozen=True)
class GELU(FromInput):
    """Gaussian error linear unit, exact or by tanh (Hendrycks & Gimpel 2016, arXiv 1606.08415)."""

    approximate: bool = False

    def value(self, x: jax.Array) -> jax.Array:
        return gelu(x, self.approximate)

    def slope(self, x: jax.Array) -> jax.Array:
        return gelu_slope(x, self.approximate)

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(GELU(), shaped(5, 3, 7)), Case(GELU(approximate=True), shaped(5, 3, 7), name="tanh")]


@dataclass(frozen=True)
class Softmax(Activation):
    """Probabilities over the last axis. For a loss on them take SoftmaxCrossEntropy on the logits instead."""

    letters = Letters()  # every entry needs all others

    def value(self, x: jax.Array) -> jax.Array:
        return softmax_forward(x, -1)

    def backward(self, params: PyTree, y: jax.Array, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return softmax_backward(y, dy, -1), {}


@dataclass(frozen=True)
class Step(Layer):
    """Heaviside's step. Its gradient is zero everywhere: what lies below it is not trained by backpropagation."""

    def forward(self, params: PyTree, x: jax.Array, ctx: Context = Context()) -> tuple[jax.Array, None]:
        return jnp.where(x >= 0, 1, 0).astype(x.dtype), None

    def backward(self, params: PyTree, cache: None, dy: jax.Array) -> tuple[jax.Array, PyTree]:
        return jnp.zeros_like(dy), {}

    @classmethod
    def cases(cls) -> list[Case]:
        return [Case(Step(), shaped(5, 3), sample=off_zero)]


@dataclass(frozen=True)
class Elementwise(FromInput):
    """Your own pair: f and its derivative, functions of an array, entry by entry.

    Checked when it is made, in float64 against jax.grad of f at 40 points of [-4, 4].
    Raises InputError at the first point where they differ.
    """

    f: Callable[[jax.Array], jax.Array]
    derivative: Callable[[jax.Array], jax.Array]

    def __post_init__(self) -> None:
        with jax.enable_x64(True):
            points = np.linspace(-3.97, 3.93, 40)
            autodiff = np.asarray(jax.vmap(jax.grad(self.f))(points))
            hand = np.broadcast_to(np.asarray(self.derivative(jnp.asarray(points))), autodiff.shape)
        wrong = ~(np.abs(hand - autodiff) <= 1e-9 * np.maximum(1, np.abs(autodiff)))
        if wrong.any():
            i = int(np.argmax(wrong))
            raise InputError(
                f"Elementwise: the derivative given is {hand[i]:.9g} at x = {points[i]:.4g}, "
                f"but f has the derivative {autodiff[i]:.9g} there ({wrong.sum()} of 40 points differ)"
            )

    def value(self, x: jax.Array) -> jax.Array:
        return self.f(x)

    def slope(self, x: jax.Array) -> jax.Array:
        return self.derivative(x)

    @classmethod
    def cases(cls) -> list[Case]:
        reason = (("repr", "a function has no text that makes it again"),)
        return [Case(Elementwise(jnp.sin, jnp.cos), shaped(5, 3), sample=normal, name="sine", excused=reason)]


def has_defaults(cls: type[Activation]) -> bool:
    """Whether the activation can be made without arguments."""
    return cls not in (Activation, FromInput) and all(field.default is not MISSING for field in fields(cls))


def activation(name: str, key: str = "activation") -> Layer:
    """The activation whose class has that name in lower case ('relu', 'gelu', ...), with its default settings.

    Raises InputError for an unknown name, with the nearest one; `key` is what the user calls the setting.
    """
    activations = [*Activation.__subclasses__(), *FromInput.__subclasses__()]
    kinds: list[type[Layer]] = [Identity, Step, *(cls for cls in activations if has_defaults(cls))]
    named = {cls.__name__.lower(): cls for cls in kinds}
    if name not in named:
        raise unknown(key, name, named)
    return named[name]()
