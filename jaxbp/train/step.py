"""One training step as a pure function, and the compiled program that runs it: all that a loop calls.

The step is the only place where gradient and optimizer meet. The program is a while_loop over it with a
traced number of steps, so 1, 100 and a ragged tail are one program, bit for bit.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxbp.backprop import Result
from jaxbp.core import Context, Layer, PyTree, register


@partial(register, data_fields=["step", "params", "optimizer", "model", "key", "loss_sum", "examples", "finite"],
         meta_fields=[])
@dataclass(frozen=True)
class State:
    """Everything that a run carries from step to step."""

    step: jax.Array  # int32, updates done
    params: PyTree
    optimizer: PyTree
    model: PyTree  # running statistics and the like
    key: jax.Array  # never changes: randomness is a function of it and of the step
    loss_sum: jax.Array  # of loss times examples since the last report
    examples: jax.Array  # since the last report
    finite: jax.Array  # False where the last loss or gradient was not finite: that update was not made


def initial_state(model: Layer, optimizer: optax.GradientTransformation, spec: PyTree, seed: int) -> State:
    """The state before the first step, a pure function of its arguments. spec: one batch of inputs."""
    key, run_key = jax.random.split(jax.random.key(seed))

    @jax.jit  # one program: every leaf is a buffer of its own, so that all can be donated
    def make(key: jax.Array, run_key: jax.Array) -> State:
        params = model.init(key, spec)
        zero = jnp.zeros((), jnp.float32)
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), model.init_state(spec), run_key, zero,
                     zero, jnp.array(True))

    return make(key, run_key)


def make_step(
    gradient: Callable[..., Result], optimizer: optax.GradientTransformation
) -> Callable[[State, dict[str, PyTree]], State]:
    """(state, batch) -> state with batch {"x", "y", "mask"}: mask [N] is 0 for rows that only pad.

    gradient is a value_and_grad(model, loss). The loss is the mean over the rows that count. Where it or a gradient is
    not finite nothing but `finite` changes.
    """

    def step(state: State, batch: dict[str, PyTree]) -> State:
        examples = jnp.sum(batch["mask"])
        weight = batch["mask"] / jnp.maximum(examples, 1)
        ctx = Context(jax.random.fold_in(state.key, state.step), state.model)
        result = gradient(state.params, {"x": batch["x"], "y": batch["y"], "weight": weight}, ctx)
        finite = is_finite((result.value, result.grads))

        def update() -> State:
            updates, moments = optimizer.update(result.grads, state.optimizer, state.params)
            return State(state.step + 1, optax.apply_updates(state.params, updates), moments, result.state, state.key,
                         state.loss_sum + result.value * examples, state.examples + examples, finite)

        return jax.lax.cond(finite, update, lambda: replace(state, finite=finite))

    return step


def is_finite(tree: PyTree) -> jax.Array:
    """Whether the sum of all entries is finite: no entry is inf or nan, and nothing is so large that they overflow."""
    return jnp.isfinite(sum(jnp.sum(a) for a in jax.tree.leaves(tree)))


def make_program(step: Callable[[State, dict[str, PyTree]], State]) -> Callable[..., State]:
    """(state, x, y, order, mask, first, count) -> state after `count` steps from row `first` of order [steps, N].

    x and y are the whole training part, resident on the device. The state is donated.
    """

    @partial(jax.jit, donate_argnums=0)
    def program(state: State, x: PyTree, y: PyTree, order: PyTree, mask: PyTree, first: PyTree, count: PyTree) -> State:
        def body(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
            i, state = carry
            rows = jax.lax.dynamic_index_in_dim(order, first + i, keepdims=False)
            batch = {"x": take(x, rows), "y": take(y, rows),
                     "mask": jax.lax.dynamic_index_in_dim(mask, first + i, keepdims=False)}
            return i + 1, step(state, batch)

        going = lambda carry: (carry[0] < count) & carry[1].finite
        return jax.lax.while_loop(going, body, (jnp.zeros((), jnp.int32), state))[1]

    return program


def take(data: jax.Array, rows: jax.Array) -> jax.Array:
    """data[rows]; the rows are known to exist."""
    return data.at[rows].get(mode="promise_in_bounds")
