"""The gradient of every layer's cases on a device, in float32 and bfloat16, against float64 on the CPU.

The truth is jax.vjp of the layer's own forward in float64. Errors are those of jaxbp.check: of each leaf, relative to
its largest entry. A hand-written gradient may be off by four times what autodiff is off in the same precision on the
same device, or by 8 units in the last place, whichever is more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check import worst
from jaxbp.core import Case, Context, Layer, PyTree, cast, layer_types

DTYPES = ("float32", "bfloat16")
KEY = 7


@dataclass(frozen=True)
class Row:
    """One case in one dtype."""

    case: str
    dtype: str
    error: float
    autodiff_error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed


def layer_cases() -> list[Case]:
    """The cases of all layers of jaxbp."""
    return [case for name, cls in layer_types().items() if name.startswith("jaxbp.") for case in cls.cases()]


def gradient_rows(case: Case, device: jax.Device) -> Iterator[Row]:
    """The case in each dtype. It takes the highest precision of products; float64 is left as it was."""
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(cpu):
        arguments = setting(case)
        for dtype in DTYPES:
            params, x, ctx, dy = arguments
            rounded = cast((x, dy), dtype)
            params = cast(params, jnp.float32)
            ctx = Context(ctx.key, cast(ctx.state, jnp.float32))
            measured = gradients(case.layer, *on(device, (params, rounded[0], ctx, rounded[1])))
            hand, auto = jax.device_get(measured)
            exact = cast((params, rounded[0], ctx, rounded[1]), jnp.float64)
            truth = jax.device_get(gradients(case.layer, *on(cpu, exact)))[1]
            if "dropout" in repr(case.layer).lower():
                truth = auto  # the mask depends on the dtype drawn
            wide = partial(jax.tree.map, lambda a: np.asarray(a, np.float64))
            off = worst(wide(auto), wide(truth))
            allowed = 4 * max(off, 2 * float(jnp.finfo(dtype).eps))
            yield Row(str(case), dtype, worst(wide(hand), wide(truth)), off, allowed)


def setting(case: Case) -> tuple[PyTree, PyTree, Context, PyTree]:
    """(params, x, ctx, dy) of a case in float64: no parameter is zero, and a state is positive, as variances are."""
    key = jax.random.key(KEY)
    spec = jax.tree.map(in_float64, case.spec)
    params = jax.tree.map(lambda p: p / 2, normal(jax.eval_shape(case.layer.init, key, spec), 1))
    state = jax.tree.map(np.abs, normal(jax.eval_shape(lambda: case.layer.init_state(spec)), 2))
    ctx = Context(key, state)
    x = case.draw(key, spec)
    y = jax.eval_shape(lambda params, x, ctx: case.layer.forward(params, x, ctx)[0], params, x, ctx)
    return params, x, ctx, normal(y, 3)


def in_float64(spec: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The spec with a floating dtype widened."""
    return jax.ShapeDtypeStruct(spec.shape, np.float64) if jnp.issubdtype(spec.dtype, jnp.floating) else spec


def normal(specs: PyTree, seed: int) -> PyTree:
    """Normal numbers of these shapes; integers are their integral parts."""
    generator = np.random.default_rng(seed)
    draw = lambda s: generator.normal(size=s.shape).astype(in_float64(s).dtype)
    return jax.tree.map(draw, specs)


def on(device: jax.Device, tree: PyTree) -> PyTree:
    """The arrays on a device, where what is computed from them is computed too."""
    return jax.device_put(tree, device)


@partial(jax.jit, static_argnums=0)
def gradients(layer: Layer, params: PyTree, x: PyTree, ctx: Context, dy: PyTree) -> tuple[Any, Any]:
    """(hand-written, autodiff's), each (gradients of the parameters, dx); dx is None for integer inputs."""
    y, cache = layer.forward(params, x, ctx)
    dy = jax.tree.map(lambda d, a: d.astype(a.dtype), dy, y)  # of integers a layer makes numbers of its own dtype
    dx, grads = layer.backward(params, cache, dy)
    if dx is None:
        return (grads, None), (jax.vjp(lambda params: layer.forward(params, x, ctx)[0], params)[1](dy)[0], None)
    return (grads, dx), jax.vjp(lambda params, x: layer.forward(params, x, ctx)[0], params, x)[1](dy)
