"""A small problem for optimizers that use the model, and many of their updates in one program."""

import functools

import jax
import jax.numpy as jnp
import optax

import jaxbp
from jaxbp import Context
from jaxbp.losses import BinaryCrossEntropy, SquaredError
from jaxbp.optim import Objective

CTX = Context(jax.random.key(0))


@functools.cache
def problem(loss=SquaredError(), penalties=(), hidden=4, dtype=jnp.float64):
    """(objective, params, batch) of 2-`hidden`-2 with weights of 1 / 7."""
    model = jaxbp.Chain((jaxbp.Dense(hidden), jaxbp.Tanh(), jaxbp.Dense(2)) if hidden else (jaxbp.Dense(2),))
    keys, spec = jax.random.split(jax.random.key(1), 3), jax.ShapeDtypeStruct((7, 2), dtype)
    params = jaxbp.cast(model.init(keys[0], spec), dtype)
    x, y = (jax.random.normal(key, (7, 2), dtype) for key in keys[1:])
    if isinstance(loss, BinaryCrossEntropy):
        y = (y > 0).astype(dtype)
    return Objective(model, loss, penalties, spec), params, {"x": x, "y": y, "weight": jnp.full(7, 1 / 7, dtype)}


def updates(optimizer, objective, params, batch, steps=1):
    """(params and optimizer state after the steps, the values before each and at the end), one compiled program."""
    gradient = objective.gradient()

    @jax.jit
    def run(params):
        def step(carry, i):
            params, state = carry
            ctx = Context(jax.random.fold_in(CTX.key, i))
            result = gradient(params, batch, ctx)
            change, state = optimizer.update(result.grads, state, params, value=result.value, batch=batch, ctx=ctx)
            return (optax.apply_updates(params, change), state), result.value

        (params, state), values = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))
        return params, state, jnp.append(values, objective.value(params, batch, CTX))

    return run(params)
