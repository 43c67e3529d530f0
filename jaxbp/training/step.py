"""One training step as a pure function, and the compiled program that runs it: all that a loop calls.

The step is the only place where gradient and optimizer meet. The program is a while_loop over it with a traced number
of steps, so 1 step, 100 steps and a ragged tail run the same program, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxbp.backprop import Result
from jaxbp.core import Batch, Context, Layer, PyTree, add, register
from jaxbp.credit.config import Backpropagation, Credit, carrying, parted
from jaxbp.training.precision import Scaling

CREDIT = 2**32 - 1  # no step is so late: the key of what the credit rule draws at the start
FIELDS = ["step", "params", "optimizer", "model", "key", "loss_sum", "examples", "finite", "credit", "scaling"]


@partial(register, data_fields=FIELDS, meta_fields=[])
@dataclass(frozen=True)
class State:
    """Everything that a run carries from step to step."""

    step: jax.Array  # int32, updates done
    params: PyTree
    optimizer: PyTree
    model: PyTree  # running statistics and the like
    key: jax.Array  # constant: randomness is a function of it and of the step
    loss_sum: jax.Array  # of loss times examples since the last report
    examples: jax.Array  # since the last report
    finite: jax.Array  # False where the last loss or gradient was not, and its update was not made; or else the weights
    credit: PyTree = None  # what the credit rule keeps, such as backward weights; None of backpropagation
    scaling: Scaling | None = None  # of the loss, in float16

    @property
    def weights(self) -> dict[str, PyTree]:
        """What a trained model needs: "params", and the state of the "model"."""
        return {"params": self.params, "model": self.model}

    @property
    def kept(self) -> dict[str, PyTree]:
        """What must be finite: weights, and what the optimizer keeps but scalars, such as an infinite best loss."""
        optimizer = jax.tree.map(lambda leaf: leaf if leaf.ndim else None, self.optimizer)
        return self.weights | {"optimizer": optimizer, "credit": self.credit}


def initial_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    spec: PyTree,
    seed: int,
    credit: Credit = Backpropagation(),
    shardings: Callable[[State], State] | None = None,
) -> State:
    """The state before the first step, a pure function of its arguments. spec: one batch of inputs.

    shardings: where its arrays lie on a mesh, from their specs; None: on one device.
    """
    key, run_key = jax.random.split(jax.random.key(seed))

    def make(key: jax.Array, run_key: jax.Array) -> State:
        params = model.init(key, spec)
        zero = jnp.zeros((), jnp.float32)
        return State(
            jnp.zeros((), jnp.int32),
            params,
            optimizer.init(params),
            model.init_state(spec),
            run_key,
            zero,
            zero,
            jnp.array(True),
            credit.init_state(jax.random.fold_in(run_key, CREDIT), params, model, spec),
            Scaling.of(model),
        )

    out = None if shardings is None else shardings(jax.eval_shape(make, key, run_key))
    return jax.jit(make, out_shardings=out)(key, run_key)  # every leaf is a buffer of its own, so all can be donated


def make_step(
    gradient: Callable[..., Result],
    optimizer: optax.GradientTransformation,
    augment: Callable[[jax.Array, jax.Array], jax.Array] = lambda key, x: x,
    credit: Credit = Backpropagation(),
) -> Callable[[State, Batch], State]:
    """(state, batch) -> state with batch {"x", "y", "mask"}: mask [N] or [N, T] is 0 for what does not count.

    gradient is a value_and_grad(model, loss), or that of the credit rule. augment(key, x) changes the inputs; every
    step has a key of its own. The loss is the mean over what counts. Where it or a gradient is not finite, only
    `finite` changes; with a scaling, a gradient that is not finite skips the step and lowers the scale. Where the
    update makes a weight that is not, the state holds it, and `finite` says so: that costs one more sum, and no copy.
    """

    def step(state: State, batch: Batch) -> State:
        examples = counted(batch)
        inputs, ctx = prepared(state, batch, augment)
        result = gradient(state.params, inputs, carrying(ctx, state.credit))
        model, _ = parted(result.state)
        finite = is_finite((result.value, result.grads))

        def update() -> State:
            params, moments, kept = updated(result, optimizer, credit, state.params, state.optimizer, inputs, ctx)
            return State(
                state.step + 1,
                params,
                moments,
                model,
                state.key,
                state.loss_sum + result.value * examples,
                state.examples + examples,
                is_finite((params, model, kept)),
                kept,
                state.scaling and state.scaling.after_finite(),
            )

        def keep() -> State:
            if state.scaling is None:
                return replace(state, finite=finite)
            return skipped(state, state.scaling, result.value, examples)

        return jax.lax.cond(finite, update, keep)

    return step


def updated(
    result: Result,
    optimizer: optax.GradientTransformation,
    credit: Credit,
    params: PyTree,
    moments: PyTree,
    batch: Batch,
    ctx: Context,
) -> tuple[PyTree, PyTree, PyTree]:
    """(parameters, what the optimizer keeps, what the credit rule keeps) after the step of this `result`."""
    updates, moments = optimizer.update(result.grads, moments, params, value=result.value, batch=batch, ctx=ctx)
    updates, kept = credit.update(updates, params, parted(result.state)[1])
    return optax.apply_updates(params, updates), moments, kept


def skipped(state: State, scaling: Scaling, value: jax.Array, examples: jax.Array) -> State:
    """The state after a step whose gradient overflowed: it counts, and changes the scale of the loss alone.

    A loss that is not finite, or a gradient that overflows at the smallest scale, is no matter of the scale.
    """
    helps = jnp.isfinite(value) & scaling.can_fall
    after = replace(
        state,
        step=state.step + 1,
        loss_sum=state.loss_sum + value * examples,
        examples=state.examples + examples,
        scaling=scaling.after_overflow(),
    )
    return jax.tree.map(partial(jnp.where, helps), after, replace(state, finite=jnp.array(False)))


def prepared(state: State, batch: Batch, augment: Callable[[jax.Array, jax.Array], jax.Array]) -> tuple[Batch, Context]:
    """The gradient's arguments in this step: the batch with its weights, and a context with the step's key."""
    ctx = Context(jax.random.fold_in(state.key, state.step), state.model)
    weight = batch["mask"] / jnp.maximum(counted(batch), 1)
    inputs = {"x": augment(ctx.draw("augment"), batch["x"]), "y": batch["y"], "weight": weight}
    return inputs if state.scaling is None else inputs | {"scale": state.scaling.scale}, ctx


def counted(batch: Batch) -> jax.Array:
    """The sum of the batch's mask, which a batch that devices share brings along as "examples"."""
    return batch["examples"] if "examples" in batch else jnp.sum(batch["mask"])


def is_finite(tree: PyTree) -> jax.Array:
    """Whether the sum of all floats is finite: none is inf or nan, and nothing is so large that they overflow."""
    floats = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)]
    return jnp.isfinite(sum(jnp.sum(a, dtype=jnp.promote_types(a.dtype, jnp.float32)) for a in floats))


def accumulated(gradient: Callable[..., Result], micro_batches: int) -> Callable[..., Result]:
    """`gradient` of a batch in equal parts, one after the other: the same sum in the memory of one part.

    The weights were made for the whole batch, so parts and ragged masks need no rule of their own. The state passes
    from part to part, and each part has its own key.
    """

    def run(params: PyTree, batch: Batch, ctx: Context) -> Result:
        parts = jax.tree.map(lambda a: a.reshape(micro_batches, -1, *a.shape[1:]), batch)

        def add_part(carry: tuple[PyTree, ...], part: tuple[jax.Array, PyTree]) -> tuple[tuple[PyTree, ...], PyTree]:
            value, grads, state = carry
            i, batch = part
            key = None if ctx.key is None else jax.random.fold_in(ctx.key, i)
            result = gradient(params, batch, replace(ctx, key=key, state=state))
            return (value + result.value, add(grads, result.grads), result.state), result.output

        first = (jnp.zeros((), batch["weight"].dtype), jax.tree.map(jnp.zeros_like, params), ctx.state)
        (value, grads, state), output = jax.lax.scan(add_part, first, (jnp.arange(micro_batches), parts))
        return Result(value, grads, state, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), output))

    return run


@partial(register, data_fields=["x", "y", "order", "mask", "counting"], meta_fields=[])
@dataclass(frozen=True)
class Feed:
    """The training part, resident on the device, and the rows of each coming step."""

    x: PyTree  # [examples, ...]
    y: PyTree
    order: jax.Array  # [steps, N] int32
    mask: jax.Array  # [steps, N] float32, 0 where a row only pads
    counting: jax.Array | None = None  # [examples, T] float32, 0 where a time step does not count

    @property
    def steps(self) -> int:
        """Steps whose rows are known."""
        return len(self.order)

    def call(self, first: int, count: int) -> tuple[Feed, jax.Array]:
        """(a feed that holds `count` steps from step `first` on, the index of that step in it)."""
        return self, jnp.int32(first)

    def batch(self, index: jax.Array) -> dict[str, jax.Array]:
        """The batch of step `index`: {"x", "y", "mask"}."""
        rows = jax.lax.dynamic_index_in_dim(self.order, index, keepdims=False)
        take = lambda data: data.at[rows].get(mode="promise_in_bounds")
        mask = jax.lax.dynamic_index_in_dim(self.mask, index, keepdims=False)
        if self.counting is not None:
            mask = mask[:, None] * take(self.counting)
        return {"x": take(self.x), "y": take(self.y), "mask": mask}


Sums = tuple[jax.Array, jax.Array, jax.Array]  # loss_sum, examples and finite of a State
Program = Callable[..., tuple[State, Sums]]  # of a state, a feed, its first step, and how many


def make_program(step: Callable[[State, Batch], State], shardings: Callable[[State], State] | None = None) -> Program:
    """(state, feed, first, count) -> (state, sums) after at most `count` steps of the feed, from its step `first` on.

    shardings: where the arrays of a state lie on a mesh; None: on one device.

    It stops where a step was not finite. What the optimizer keeps is looked at once, after the last step. The state is
    donated; the sums are copies that outlive it.
    """

    @partial(jax.jit, donate_argnums=0)
    def program(state: State, feed: Feed, first: jax.Array, count: jax.Array) -> tuple[State, Sums]:
        def body(carry: tuple[jax.Array, State]) -> tuple[jax.Array, State]:
            i, state = carry
            return i + 1, step(state, feed.batch(first + i))

        unfinished = lambda carry: (carry[0] < count) & carry[1].finite
        _, state = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state))
        state = replace(state, finite=state.finite & is_finite(state.kept["optimizer"]))
        state = state if shardings is None else jax.lax.with_sharding_constraint(state, shardings(state))
        return state, (state.loss_sum, state.examples, state.finite)

    return program
