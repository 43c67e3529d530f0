"""Training steps as functions that can be timed: a jit call each, or inside the training loop's program."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bench.race import Race
from jaxbp.train.step import Feed, State, make_program


def stepwise(step: Callable, state: State, batch: dict, count: int = 1) -> tuple[Callable[[], None], int]:
    """(runs so many steps, a jit call each; temporary bytes)."""
    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def run() -> None:
        carried = jax.tree.map(jnp.copy, state)
        for _ in range(count):
            carried = program(carried, batch)
        jax.block_until_ready(carried)

    return run, program.memory_analysis().temp_size_in_bytes


def looped(step: Callable, state: State, feed: Feed, count: int) -> tuple[Callable[[], None], int]:
    """(runs so many steps inside the training loop's program; temporary bytes)."""
    arguments = (feed, jnp.int32(0), jnp.int32(count))
    program = make_program(step).lower(state, *arguments).compile()
    run = lambda: jax.block_until_ready(program(jax.tree.map(jnp.copy, state), *arguments))
    return run, program.memory_analysis().temp_size_in_bytes


def race(name: str, made: dict[str, tuple[Callable, int]], peers: dict[str, Callable], **options: int) -> Race:
    """Of what `stepwise` and `looped` gave."""
    (hand, hand_bytes), (auto, auto_bytes) = made.pop("hand"), made.pop("autodiff")
    return Race(
        name, hand, auto, (hand_bytes, auto_bytes), {key: run for key, (run, _) in made.items()} | peers, **options
    )
