"""Initializers under the field's names, as printable values. The arithmetic is that of jax.nn.initializers.

| name | distribution | variance | source |
|---|---|---|---|
| lecun_normal, lecun_uniform | normal cut at 2 sigma, uniform | 1 / fan_in | LeCun et al. 1998 |
| glorot_normal, glorot_uniform (xavier_*) | the same | 2 / (fan_in + fan_out) | Glorot & Bengio 2010, eq. 16 |
| he_normal, he_uniform (kaiming_*) | the same | 2 / fan_in | He et al. 2015, eq. 10 |
| normal, uniform | N(0, 1), U(0, 1) | | |
| zeros, ones | constant | | zeros on weights never breaks the symmetry of hidden units |
| orthogonal | rows or columns orthonormal | 1 / the longer side | Saxe et al. 2014, arXiv 1312.6120 |
| identity | 1 on the diagonal | | Le et al. 2015, arXiv 1504.00941 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import require
from jaxbp.errors import InputError, unknown


@dataclass(frozen=True)
class Initializer:
    """Draws a float32 array of `shape`; in_axis and out_axis say where the fans are."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        raise NotImplementedError


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Variance scale / fan."""

    scale: float
    fan: Literal["fan_in", "fan_avg"]
    distribution: Literal["truncated_normal", "uniform"]

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        draw = jax.nn.initializers.variance_scaling(self.scale, self.fan, self.distribution, in_axis, out_axis)
        return draw(key, shape, jnp.float32)


@dataclass(frozen=True)
class Normal(Initializer):
    """mean + std N(0, 1)."""

    std: float = 1.0
    mean: float = 0.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        return self.mean + self.std * jax.random.normal(key, shape, jnp.float32)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform on [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, self.low, self.high)


@dataclass(frozen=True)
class Constant(Initializer):
    """Every entry the same."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        return jnp.full(shape, self.value, jnp.float32)


@dataclass(frozen=True)
class Given(Initializer):
    """The values themselves, row by row: Given(((0.15, 0.2), (0.25, 0.3))). For worked examples."""

    values: tuple

    def __post_init__(self) -> None:
        try:
            np.array(self.values, float)
        except (TypeError, ValueError):
            message = f"Given: values must be numbers, in rows of one length, got {self.values!r}"
            raise InputError(message) from None

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        values = np.array(self.values, float)
        if values.shape != shape:
            raise InputError(f"Given: parameters of shape {list(shape)} need such values, got {list(values.shape)}")
        return jnp.asarray(values)  # all digits where JAX computes in float64


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """scale times a matrix with orthonormal rows, or columns where there are fewer of them. For two axes."""

    scale: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        return jax.nn.initializers.orthogonal(self.scale)(key, _matrix("orthogonal", shape), jnp.float32)


@dataclass(frozen=True)
class IdentityMatrix(Initializer):
    """scale on the diagonal, zero elsewhere. For two axes."""

    scale: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], *, in_axis: int, out_axis: int) -> jax.Array:
        rows, columns = _matrix("identity", shape)
        return self.scale * jnp.eye(rows, columns, dtype=jnp.float32)


def _matrix(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise InputError(f"the initializer '{name}' is for matrices, not for the shape {list(shape)}")
    rows, columns = shape
    return rows, columns


def _scaled(name: str, scale: float, fan: Literal["fan_in", "fan_avg"]) -> dict[str, Initializer]:
    return {
        f"{name}_normal": VarianceScaling(scale, fan, "truncated_normal"),
        f"{name}_uniform": VarianceScaling(scale, fan, "uniform"),
    }


NAMED: dict[str, Initializer] = {
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
    "normal": Normal(),
    "uniform": Uniform(),
    **_scaled("lecun", 1.0, "fan_in"),
    **_scaled("glorot", 1.0, "fan_avg"),
    **_scaled("xavier", 1.0, "fan_avg"),
    **_scaled("he", 2.0, "fan_in"),
    **_scaled("kaiming", 2.0, "fan_in"),
}

MATRICES: dict[str, Initializer] = {"orthogonal": Orthogonal(), "identity": IdentityMatrix()}  # no biases


def initializer(init: str | Initializer, key: str = "initializer") -> Initializer:
    """The initializer of that name; a value is returned as it is. `key` is what the user calls the setting.

    Raises InputError for an unknown name, with the nearest one.
    """
    if isinstance(init, Initializer):
        return init
    named = NAMED | MATRICES
    if init not in named:
        raise unknown(key, init, named)
    return named[init]


def weight_and_bias(
    key: jax.Array, shape: tuple[int, ...], w_init: str | Initializer, b_init: str | Initializer | None
) -> dict[str, jax.Array]:
    """{"w" [O, ..., I] of that shape, "b" [O]}, each drawn with its own key; no "b" where b_init is None."""
    w_key, b_key = jax.random.split(key)
    params = {"w": initializer(w_init)(w_key, shape, in_axis=-1, out_axis=0)}
    if b_init is not None:
        params["b"] = initializer(b_init)(b_key, shape[:1], in_axis=-1, out_axis=-1)
    return params


def require_weights(layer: Any) -> None:
    """Raises InputError unless a layer's `features` is at least 1, and its w_init and b_init are initializers."""
    require(layer, "features", layer.features >= 1, "at least 1")
    initializer(layer.w_init)
    initializer(layer.b_init)
