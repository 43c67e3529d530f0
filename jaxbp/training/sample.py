"""Text from a trained language model, one character at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree, shaped
from jaxbp.errors import InputError
from jaxbp.layers.recurrent import with_carry


def sample(
    model: Layer, params: PyTree, classes: Sequence[str], prompt: str, length: int, temperature: float, seed: int
) -> str:
    """`length` characters that follow `prompt`, drawn from softmax(outputs / temperature); at 0 the likeliest ones.

    model: [N, T] characters -> [N, T, classes], with recurrent layers. Raises InputError where the prompt is empty or
    has characters that are no classes.
    """
    if not prompt:
        raise InputError("the prompt is empty, and it needs at least one character")
    if strange := sorted(set(prompt) - set(classes)):
        raise InputError(f"the prompt has {strange[0]!r}, which the model's text does not have")
    ids = jnp.array([[classes.index(character) for character in prompt]], jnp.int32)
    carrying = with_carry(model, True)
    drawn = draw(carrying, length, temperature > 0, params, ids, max(temperature, 1e-9), jax.random.key(seed))
    return "".join(classes[i] for i in np.asarray(drawn))


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw(
    model: Layer, length: int, random: bool, params: PyTree, prompt: jax.Array, temperature: float, key: jax.Array
) -> jax.Array:
    """[length] characters after prompt [1, T]. The state is carried, so each character costs one step of the cells."""

    def read(state: PyTree, ids: jax.Array) -> tuple[PyTree, jax.Array]:
        y, cache = model.forward(params, ids, Context.evaluation(state))
        return model.next_state(state, cache), y[0, -1]

    def step(carry: tuple[PyTree, jax.Array], key: jax.Array) -> tuple[tuple[PyTree, jax.Array], jax.Array]:
        state, y = carry
        drawn = (jax.random.categorical(key, y / temperature) if random else jnp.argmax(y)).astype(jnp.int32)
        return read(state, drawn[None, None]), drawn

    after_prompt = read(model.init_state(shaped(*prompt.shape, dtype=prompt.dtype)), prompt)
    _, characters = jax.lax.scan(step, after_prompt, jax.random.split(key, length))
    return characters
