"""The forms that operations take on each platform: a program lowered for it, on shapes, with nothing compiled or run.

Where a form was chosen for the CPU, the choice is one line, `jax.lax.platform_dependent`, and others get JAX's own:

| operation                     | on CPU                                       | on CUDA and TPU                       |
|-------------------------------|----------------------------------------------|---------------------------------------|
| convolution, its two deltas   | products over patches, or its fast layout    | one convolution each                  |
| depthwise convolution         | shifted products of arrays, a loop over taps | one convolution each                  |
| gradient of an embedding      | scatter                                      | product with one-hot rows, up to 4096 |
| gradient of recurrent weights | the wider array on the right, by a barrier   | one product                           |
| backward sums of batch norm   | products with ones                           | reductions                            |
| backward means of layer norms | products with the scale                      | reductions                            |
| weights of a chunked loss     | grow a block of rows at a time               | grow by one product                   |
| attention in half precision   | stored or chunked                            | cuDNN's where CUDA runs the program   |

All else is the same program: products, entry-wise functions, reductions and scans.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

PLATFORMS = ("cpu", "cuda", "tpu")
KINDS = "convolution|dot_general|gather|scatter|select_and_scatter|reduce_window|while|sort|optimization_barrier"
OPERATION = re.compile(rf'"?stablehlo\.({KINDS})"?[ (]')
CALL = re.compile(r"stablehlo\.custom_call @(\w+)")
PRODUCT = re.compile(
    r"stablehlo\.(?:dot_general|convolution)\b.*: \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
)


@dataclass(frozen=True)
class Product:
    """The dtypes of a matrix product or convolution: of what it multiplies, and of what it adds up."""

    left: str
    right: str
    sum: str


@dataclass(frozen=True)
class Forms:
    """What a lowered program is made of."""

    operations: Counter[str]  # StableHLO's name, or that of a library call -> how many, loop bodies once
    products: tuple[Product, ...]

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" for name, number in sorted(self.operations.items())) or "none"


def forms(function: Callable[..., Any], *specs: Any) -> dict[str, Forms]:
    """{platform: what jax.jit(function) is there} for arguments like `specs`. It is traced once, and lowered thrice."""
    traced = jax.jit(function).trace(*specs)
    return {platform: read(traced.lower(lowering_platforms=(platform,)).as_text()) for platform in PLATFORMS}


def read(text: str) -> Forms:
    """The forms in a lowered program's text."""
    names = [*OPERATION.findall(text), *CALL.findall(text)]
    dtypes = lambda match: Product(*(tensor.rpartition("x")[2] for tensor in match))
    return Forms(Counter(names), tuple(map(dtypes, PRODUCT.findall(text))))
