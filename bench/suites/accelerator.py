"""Suite accelerator: the gradients of whole models at sizes that fill the device, in float32 and bfloat16.

On the CPU the sizes are small. `jaxbp accelerator` adds the share of the device's speed that each reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from bench.race import Race, compiled
from jaxbp import value_and_grad
from jaxbp.check import autodiff
from jaxbp.compose import Chain
from jaxbp.core import Context, Layer
from jaxbp.layers import Dense, LSTMCell, Recurrent
from jaxbp.losses import Loss, SoftmaxCrossEntropy
from jaxbp.models import CNN, GPT, MLP, ResNet
from jaxbp.wrappers import computed_in

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Work:
    """One gradient of a model: inputs of shape `shape`, one class for each of the model's outputs."""

    name: str
    model: Layer
    shape: tuple[int, ...]
    classes: int
    ids: bool = False  # inputs are classes too
    loss: Loss = SoftmaxCrossEntropy()
    dtype: str = "float32"

    @property
    def computed(self) -> Layer:
        """The model in the dtype."""
        return computed_in(self.model, self.dtype)

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        """Of the inputs."""
        return jax.ShapeDtypeStruct(self.shape, jnp.int32 if self.ids else jnp.float32)

    def race(self) -> Race:
        """Hand-written against autodiff."""
        random = np.random.default_rng(0)
        x = random.integers(self.classes, size=self.shape) if self.ids else random.normal(size=self.shape)
        model = self.computed
        params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), self.spec)
        ctx = Context(jax.random.key(1), model.init_state(self.spec))
        outputs = jax.eval_shape(lambda: model.forward(params, jnp.zeros_like(self.spec), ctx)[0]).shape[:-1]
        y = random.integers(self.classes, size=outputs).astype(np.int32)
        weight = jnp.full(outputs, 1 / y.size, jnp.float32)
        batch = {"x": jnp.asarray(x, self.spec.dtype), "y": jnp.asarray(y), "weight": weight}

        def gradient(way):
            return lambda params, batch, ctx: way(model, self.loss)(params, batch, ctx)[:2]

        arguments = (params, batch, ctx)
        forms = {"hand": (gradient(value_and_grad), arguments), "autodiff": (gradient(autodiff), arguments)}
        return compiled(f"{self.name}, {self.dtype}", forms, repeats=5)


def works() -> Iterator[Work]:
    """Everything that is measured."""
    large = jax.default_backend() != "cpu"
    size = lambda on_accelerator, on_cpu: on_accelerator if large else on_cpu
    width = size(8192, 256)
    rows = size(8192, 64)
    images = size((1024, 32, 32, 3), (16, 16, 16, 3))
    channels = size((128, 256), (8, 16))
    steps, hidden = size((256, 1024), (16, 32))
    length = size(1024, 64)
    gpt = size(GPT(50257, 768, 12, 12, context=length), GPT(97, 64, 2, 4, context=length))
    classes = gpt.outputs
    batch = size(16, 4)
    recurrent = Chain(Recurrent(LSTMCell(hidden)), Dense(classes))
    every = (
        Work("dense", MLP(10, (width,) * 3).build(), (rows, width), 10),
        Work("convolution", CNN(outputs=10, channels=channels, hidden=(256,)).build(), images, 10),
        Work("residual", ResNet(10, channels, 2).build(), images, 10),
        Work("recurrent", recurrent, (size(256, 4), steps, hidden), classes),
        Work("gpt", gpt.build(), (batch, length), classes, ids=True),
        Work("gpt, chunked loss", gpt.build(), (batch, length), classes, True, SoftmaxCrossEntropy(chunk=2048)),
    )
    for work in every:
        for dtype in DTYPES:
            yield replace(work, dtype=dtype)


def cases() -> Iterator[Race]:
    for work in works():
        yield work.race()
