"""Suite conv: forward and backward of one layer of a convolutional net, as a jit call each and inside a training loop.

Autodiff is jax.vjp of a user's forward: for a convolution one lax.conv_general_dilated and a bias, for pooling one
lax.reduce_window, for a normalization the layer's own (and beside it the plain formula); same inputs. The delta
depends on the output, as in training, so that no backward pass starts before the forward pass ends. In the loop every
step takes another batch and its gradients change the weights, so that nothing is hoisted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax

from bench.race import Race, compiled
from jaxbp import BatchNormReLU, Context, Conv, ConvTranspose, Layer, LayerNorm, MaxPool, output_spec, shaped

STEPS = 4
PAIR = lambda n, rank=2: ((n, n),) * rank
LAYERS = {  # name: (layer, input shape)
    "LeNet 5x5, 1-32": (Conv(32, (5, 5), padding="VALID"), (32, 28, 28, 1)),
    "LeNet 5x5, 32-64": (Conv(64, (5, 5), padding="VALID"), (16, 12, 12, 32)),
    "CIFAR ResNet 3x3, 16": (Conv(16), (16, 32, 32, 16)),
    "CIFAR ResNet 3x3, 32": (Conv(32), (16, 16, 16, 32)),
    "CIFAR ResNet 3x3, 64": (Conv(64), (16, 8, 8, 64)),
    "VGG 3x3, 3-64": (Conv(64), (2, 64, 64, 3)),
    "ResNet-50 3x3, 64": (Conv(64), (1, 56, 56, 64)),
    "ResNet-50 3x3, 128": (Conv(128), (1, 28, 28, 128)),
    "ResNet-50 3x3, 256": (Conv(256), (1, 14, 14, 256)),
    "ResNet-50 3x3, 512": (Conv(512), (1, 7, 7, 512)),
    "ResNet-50 3x3 stride 2, 128": (Conv(128, strides=2, padding=PAIR(1)), (1, 56, 56, 128)),
    "ResNet-50 7x7 stride 2, 3-64": (Conv(64, (7, 7), 2, PAIR(3)), (1, 224, 224, 3)),
    "ResNet-50 1x1, 64-256": (Conv(256, (1, 1)), (2, 56, 56, 64)),
    "ResNet-50 1x1, 1024-256": (Conv(256, (1, 1)), (4, 14, 14, 1024)),
    "ResNet-50 1x1 stride 2, 256-512": (Conv(512, (1, 1), 2), (2, 56, 56, 256)),
    "Inception 5x5, 32-96": (Conv(96, (5, 5)), (4, 14, 14, 32)),
    "Inception 1x7, 128": (Conv(128, (1, 7)), (2, 17, 17, 128)),
    "AlexNet 5x5 in 2 groups, 96-256": (Conv(256, (5, 5), groups=2), (1, 27, 27, 96)),
    "ResNeXt 3x3 in 32 groups, 256": (Conv(256, groups=32), (1, 28, 28, 256)),
    "MobileNet depthwise 3x3, 32": (Conv(32, groups=32), (2, 112, 112, 32)),
    "MobileNet depthwise 3x3, 512": (Conv(512, groups=512), (4, 14, 14, 512)),
    "MobileNet depthwise 3x3 stride 2, 64": (Conv(64, strides=2, groups=64), (2, 112, 112, 64)),
    "ConvNeXt depthwise 7x7, 96": (Conv(96, (7, 7), groups=96), (2, 56, 56, 96)),
    "ConvNeXt 2x2 stride 2, 96-192": (Conv(192, (2, 2), 2, "VALID"), (2, 56, 56, 96)),
    "ViT 16x16 stride 16, 3-384": (Conv(384, (16, 16), 16, "VALID"), (2, 224, 224, 3)),
    "DeepLab 3x3 dilation 6, 128": (Conv(128, dilation=6), (1, 33, 33, 128)),
    "WaveNet 1-D causal 2, dilation 8": (Conv(128, (2,), 1, ((8, 0),), 8), (2, 4096, 64)),
    "speech 1-D 11 stride 2, 80-256": (Conv(256, (11,), 2), (4, 400, 80)),
    "C3D 3x3x3, 16-32": (Conv(32, (3, 3, 3)), (1, 8, 28, 28, 16)),
    "DCGAN transposed 4x4 stride 2, 128-64": (ConvTranspose(64, (4, 4), 2, PAIR(1)), (8, 8, 8, 128)),
    "U-Net transposed 2x2 stride 2, 128-64": (ConvTranspose(64, (2, 2), 2, "VALID"), (2, 28, 28, 128)),
    "LeNet max pooling 2x2": (MaxPool((2, 2)), (64, 24, 24, 32)),
    "batch norm and ReLU, 64": (BatchNormReLU(), (64, 14, 14, 64)),
    "layer norm, 512": (LayerNorm(), (16, 128, 512)),
}


def plain(layer: Conv, space: tuple[int, ...]) -> Callable:
    """The forward that a user writes, on weights [*kernel, I, O], the layout that is fastest."""
    rank = len(layer.kernel)
    axes, weights = (0, rank + 1, *range(1, rank + 1)), (rank + 1, rank, *range(rank))
    transposed = isinstance(layer, ConvTranspose)
    window = layer.enlarged(space) if transposed else layer.window(space)

    def forward(params: dict, x: jax.Array) -> jax.Array:
        w, layout = params["w"], lax.ConvDimensionNumbers(axes, weights, axes)
        if transposed:
            w = jnp.flip(w, range(rank))
            y = lax.conv_general_dilated(x, w, window.once, window.margins, window.strides, window.dilation, layout)
        else:
            y = lax.conv_general_dilated(
                x, w, window.strides, window.padding, None, window.dilation, layout, layer.groups
            )
        return y + params["b"]

    return forward


def max_pool(params: dict, x: jax.Array) -> jax.Array:
    """2x2, as a user writes it."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def user_forward(layer: Layer, shape: tuple[int, ...]) -> Callable:
    """(params, x) -> y as differentiated by JAX."""
    if isinstance(layer, Conv):
        return plain(layer, shape[1:-1])
    ctx = Context(None, layer.init_state(shaped(*shape)))
    return max_pool if isinstance(layer, MaxPool) else lambda params, x: layer.forward(params, x, ctx)[0]


def formula(layer: Layer) -> Callable:
    """(params, x) -> y of a normalization in one line."""
    batch = isinstance(layer, BatchNormReLU)

    def forward(params: dict, x: jax.Array) -> jax.Array:
        axes = tuple(range(x.ndim - 1)) if batch else -1
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        y = (x - mean) / jnp.sqrt(variance + layer.epsilon) * params["scale"] + params["bias"]
        return jax.nn.relu(y) if batch else y

    return forward


def by_hand(layer: Layer, shape: tuple[int, ...]) -> Callable:
    """(params, x, dy) -> (y, dx, grads) with the delta y dy."""
    ctx = Context(None, layer.init_state(shaped(*shape)))

    def run(params: dict, x: jax.Array, dy: jax.Array) -> tuple:
        y, cache = layer.forward(params, x, ctx)
        return y, *layer.backward(params, cache, y * dy)

    return run


def by_autodiff(forward: Callable) -> Callable:
    """The same by jax.vjp of the forward."""

    def run(params: dict, x: jax.Array, dy: jax.Array) -> tuple:
        y, back = jax.vjp(forward, params, x)
        grads, dx = back(y * dy)
        return y, dx, grads

    return run


def loop(forward_backward: Callable) -> Callable:
    """STEPS steps in one program, each on its own batch and with the weights that the last one left."""

    def run(params: dict, xs: jax.Array, dys: jax.Array) -> tuple:
        def step(params: dict, batch: tuple) -> tuple:
            y, dx, grads = forward_backward(params, *batch)
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), (y, dx)

        return lax.scan(step, params, (xs, dys))

    return run


def cases() -> Iterator[Race]:
    for name, (layer, shape) in LAYERS.items():
        params = layer.init(jax.random.key(0), shaped(*shape))
        y = output_spec(layer, shaped(*shape))
        x = jax.random.normal(jax.random.key(1), (STEPS, *shape))
        dy = jax.random.normal(jax.random.key(2), (STEPS, *y.shape))
        forms = {"hand": by_hand(layer, shape), "autodiff": by_autodiff(user_forward(layer, shape))}
        if isinstance(layer, BatchNormReLU | LayerNorm):
            forms["jax.grad of the formula"] = by_autodiff(formula(layer))
        plain_params = params | {"w": jnp.moveaxis(params["w"], 0, -1)} if isinstance(layer, Conv) else params
        own_params = {form: params if form == "hand" else plain_params for form in forms}
        steps = {form: (function, (own_params[form], x[0], dy[0])) for form, function in forms.items()}
        yield compiled(f"{name}, step", steps, repeats=10, peer_repeats=10)
        loops = {form: (loop(function), (own_params[form], x, dy)) for form, function in forms.items()}
        yield compiled(f"{name}, loop of {STEPS}", loops, repeats=1)
