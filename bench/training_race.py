"""Training steps as functions that can be timed: a jit call each, or inside the training loop's program."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bench.race import Race, Run, temp_bytes
from jaxbp.core import Batch
from jaxbp.training.step import Feed, State, make_program

Timed = tuple[Run, int]  # (runs the steps, temporary bytes of the program)


def stepwise(step: Callable[[State, Batch], State], state: State, batch: Batch, count: int = 1) -> Timed:
    """`count` steps, each a call of a compiled program."""
    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run() -> None:
        carried = jax.tree.map(jnp.copy, state)
        for _ in range(count):
            carried = program(carried, batch)
        jax.block_until_ready(carried)

    return run, temp_bytes(program)


def looped(step: Callable[[State, Batch], State], state: State, feed: Feed, count: int) -> Timed:
    """`count` steps inside the training loop's program."""
    arguments = (feed, jnp.int32(0), jnp.int32(count))
    program = make_program(step).lower(state, *arguments).compile()
    run = lambda: jax.block_until_ready(program(jax.tree.map(jnp.copy, state), *arguments))
    return run, temp_bytes(program)


def race(case: str, timed: dict[str, Timed], peers: dict[str, Run], **repeats: int) -> Race:
    """The race of "hand" against "autodiff"; the others in `timed` are peers too."""
    hand, hand_bytes = timed.pop("hand")
    autodiff, autodiff_bytes = timed.pop("autodiff")
    others = {name: run for name, (run, _) in timed.items()}
    return Race(case, hand, autodiff, (hand_bytes, autodiff_bytes), others | peers, **repeats)
