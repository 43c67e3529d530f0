"""Functions of flax that bring their own derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.check import Cause

from .table import between, normal, peer, public

FP8, E4M3, E5M2, PRODUCT = "flax.linen.fp8_ops", jnp.float8_e4m3fn, jnp.float8_e5m2, (((1,), (0,)), ((), ()))
UPDATED = {"scale": "", "history": ""}  # their "gradients" are their next values

peer(
    FP8,
    "in_qdq",
    lambda fp8: lambda x, scale, history: fp8.in_qdq(jnp.float64, E4M3, x, scale, history),
    normal(5),
    np.ones(1),
    np.zeros(4),
    departs={"x": ""} | UPDATED,
)
peer(
    FP8,
    "out_qdq",
    lambda fp8: lambda x, scale, history: fp8.out_qdq(jnp.float64, E5M2, x, scale, history),
    normal(5),
    np.ones(1),
    np.zeros(4),
    departs={"x": ""} | UPDATED,
)
peer(
    FP8,
    "in_q",
    lambda fp8: lambda x, scale, history: fp8.in_q(jnp.float64, E4M3, x, scale, history)[1],
    normal(5),
    np.ones(1),
    np.linspace(1, 2, 4),
    departs=UPDATED,
    suite="slow",
)
peer(
    FP8,
    "out_dq",
    lambda fp8: lambda left, right, out: fp8.out_dq(jnp.float64, left, right, out),
    between(0.5, 2, 1),
    between(0.5, 2, 1, seed=1),
    normal(5),
    departs={"left": Cause.ZERO, "right": Cause.ZERO, "out": Cause.FACTOR},
)
peer(
    FP8,
    "dot_general_with_precision",
    lambda fp8: lambda left, right: fp8.dot_general_with_precision(left, right, PRODUCT),
    normal(3, 5),
    normal(5, 2),
)


@public("flax", normal(3, 5), normal(5, 2), departs={"left": "", "right": ""})
def fp8_scaled_dot_general():
    from flax.linen.fp8_ops import fp8_scaled_dot_general

    names = [f"{side}_{what}" for side in ("lhs", "rhs", "grad") for what in ("scale", "amax_history")]
    meta = {name: np.ones(1) if name.endswith("scale") else np.zeros(4) for name in names}
    return lambda left, right: fp8_scaled_dot_general(
        left,
        right,
        PRODUCT,
        preferred_element_type=jnp.float64,
        quantize_compute_type=jnp.float64,
        **{name: jnp.asarray(a) for name, a in meta.items()},
    )


@public("flax", normal(3, 5), normal(5, 2), departs={"kernel": ""})
def linen_custom_vjp():
    import flax.linen as nn

    class Signed(nn.Module):
        """Dense, with the sign of the parameters' gradient: the example of the documentation."""

        @nn.compact
        def __call__(self, x):
            def backward(pullback, dy):
                params, dx = pullback(dy)
                return jax.tree.map(jnp.sign, params), dx

            plain = lambda layer, x: layer(x)
            run = nn.custom_vjp(plain, lambda layer, x: nn.vjp(plain, layer, x), backward)
            return run(nn.Dense(2, use_bias=False, param_dtype=jnp.float64), x)

    return lambda x, kernel: Signed().apply({"params": {"Dense_0": {"kernel": kernel}}}, x)


@public("flax", normal(5), normal(5, seed=1), reference=lambda x, y: jnp.sin(x) * y, suite="slow")
def nnx_custom_vjp():
    from flax import nnx

    class Pair(nnx.Module):
        def __init__(self, x, y):
            self.x, self.y = nnx.Param(x), nnx.Param(y)

    @nnx.custom_vjp(graph=False, graph_updates=False)
    def product(pair):
        return jnp.sin(pair.x[...]) * pair.y[...]

    def backward(kept, dy):
        x, y = kept
        return (Pair(jnp.cos(x) * dy * y, jnp.sin(x) * dy),)

    product.defvjp(lambda pair: (product(pair), (pair.x[...], pair.y[...])), backward)
    return lambda x, y: product(Pair(x, y))
