"""What is said of a model of text."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import log

import jax
import jax.numpy as jnp

from jaxbp.core import Layer
from jaxbp.losses import Loss, SoftmaxCrossEntropy
from jaxbp.summary import summary
from jaxbp.wrappers import ComputedIn


def bits_per_byte(loss: Loss, value: float, item_bytes: float | None) -> dict[str, float]:
    """{"bits_per_byte"} of a mean loss in nats, the same scale for all vocabularies: loss / ln 2 / bytes of a token.

    {} where the data are no text, or the loss is not the plain cross-entropy.
    """
    if (
        item_bytes is None
        or not isinstance(loss, SoftmaxCrossEntropy)
        or loss.label_smoothing
        or not loss.is_likelihood
    ):
        return {}
    return {"bits_per_byte": value / log(2) / item_bytes}


@dataclass(frozen=True)
class Pace:
    """The speed of steps on inputs like `spec` [N, T], beyond how many there are a second."""

    model: Layer
    spec: jax.ShapeDtypeStruct

    @property
    def dtype(self) -> str:
        """Of the model's products."""
        return self.model.dtype if isinstance(self.model, ComputedIn) else "float32"

    @cached_property
    def operations(self) -> int:
        """Operations of one step's passes as the formulas of the layers have them: what is computed a second time to
        save memory counts once."""
        total = summary(once(self.model), self.spec).total
        return total.forward + total.backward

    def figures(self, steps_per_second: float) -> dict[str, float]:
        """{"tokens_per_second", "utilisation"}: the latter is the model's operations a second, as a share of those of a
        large matrix product on this machine (model flops utilisation; Chowdhery et al. 2022, appendix B)."""
        return {
            "tokens_per_second": steps_per_second * self.spec.size,
            "utilisation": steps_per_second * self.operations / product_speed(self.dtype),
        }


def once(layer: Layer) -> Layer:
    """The same model in the forms that keep everything, and compute nothing a second time."""
    layer = layer.map(once)
    forms = {"keep": "all", "form": "stored"}
    changes = {name: kept for name, kept in forms.items() if getattr(layer, name, kept) != kept}
    return replace(layer, **changes) if changes else layer


@lru_cache(maxsize=4)
def product_speed(dtype: str = "float32") -> float:
    """Operations a second of a product of two large matrices of a dtype, the best of five."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    product = jax.jit(jnp.matmul)
    a = jnp.ones((size, size), dtype)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
