"""Functions of equinox that bring their own derivative."""

from __future__ import annotations

import jax.numpy as jnp

from jaxbp.check import Cause

from .references import identity, seven_sines
from .table import between, normal, peer, public

INTERNAL = "equinox.internal"

peer("equinox", "error_if", lambda equinox: lambda x: equinox.error_if(x, jnp.any(x > 100), "too large"), normal(5))
peer("equinox", "backward_nan", lambda equinox: lambda x: equinox.debug.backward_nan(x * x), normal(5))
peer(INTERNAL, "nextafter", lambda module: lambda x: module.nextafter(x), normal(5), reference=identity)
peer(INTERNAL, "prevbefore", lambda module: lambda x: module.prevbefore(x), normal(5), reference=identity)
peer(
    INTERNAL,
    "nondifferentiable",
    lambda module: lambda x: module.nondifferentiable(x),
    normal(5),
    refused="cannot be autodifferentiated",
    suite="slow",
)


@public("equinox", normal(5), between(0.5, 1.5, 5), reference=seven_sines, suite="slow")
def checkpointed_while_loop():
    import equinox.internal

    more, step = lambda carry: carry[0] < 7, lambda a: lambda carry: (carry[0] + 1, jnp.sin(a * carry[1]))
    return lambda x, a: equinox.internal.while_loop(more, step(a), (0, x), kind="checkpointed", checkpoints=3)[1]


@public("equinox", normal(5), normal(5, seed=1), reference=lambda x, y: x * jnp.sin(y), suite="slow")
def filter_custom_vjp():
    import equinox

    @equinox.filter_custom_vjp
    def product(pair, name):
        return pair[0] * jnp.sin(pair[1])

    product.def_fwd(lambda perturbed, pair, name: (product(pair, name), None))
    product.def_bwd(lambda kept, dy, perturbed, pair, name: (dy * jnp.sin(pair[1]), dy * pair[0] * jnp.cos(pair[1])))
    return lambda x, y: product((x, y), "a name")


@public("equinox", normal(5), departs={"x": Cause.FACTOR})
def filter_custom_jvp():
    import equinox

    @equinox.filter_custom_jvp
    def call(x, *, f):
        return f(x)

    call.def_jvp(lambda primals, tangents, *, f: (f(*primals), 2 * tangents[0]))  # the example of the documentation
    return lambda x: call(x, f=lambda x: x + 1)
