"""Text from a trained language model, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.core import Context, Layer, PyTree, leaf_layers, shaped
from jaxbp.data.preparation import Ids, Preparation
from jaxbp.data.vocabulary import Vocabulary
from jaxbp.errors import InputError
from jaxbp.layers import Attention, Positions
from jaxbp.layers.recurrent import with_carry

COLDEST = 1e-30  # temperatures below it overflow float32, and are 0


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from its logits, in this order: divided by `temperature`, 0 being the likeliest alone; the
    `top_k` likeliest stay; of these the likeliest that together have the probability `top_p` (Holtzman et al. 2020)."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, key: jax.Array, logits: jax.Array) -> jax.Array:
        """int32 [] from logits [V]."""
        if self.temperature < COLDEST:
            return jnp.argmax(logits).astype(jnp.int32)
        return jax.random.categorical(key, self.kept(logits / self.temperature)).astype(jnp.int32)

    def kept(self, logits: jax.Array) -> jax.Array:
        """The logits [V], -inf for what is not to be drawn. The likeliest always stays."""
        if self.top_k is not None:
            least = jax.lax.top_k(logits, min(self.top_k, len(logits)))[0][-1]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        if self.top_p is not None:
            likeliest = jnp.sort(logits, descending=True)
            probability = jax.nn.softmax(likeliest)
            before = jnp.cumsum(probability) - probability
            least = jnp.min(jnp.where(before < self.top_p, likeliest, likeliest[0]))
            logits = jnp.where(logits < least, -jnp.inf, logits)
        return logits


def sample(
    model: Layer,
    params: PyTree,
    vocabulary: Vocabulary | Sequence[str],
    prompt: str,
    length: int,
    temperature: float,
    seed: int,
    top_k: int | None = None,
    top_p: float | None = None,
    context: int | None = None,
) -> str:
    """The text of `length` tokens that follow `prompt`, drawn by Draw(temperature, top_k, top_p).

    model: ids [N, T] -> logits [N, T, V], with recurrent layers or causal attention. vocabulary: what the ids stand
    for, or characters. context: tokens that attention sees at most; where they are full, it begins again with the
    later half of them. None: the model's positions, or all. Raises InputError where the prompt is empty or has what
    the vocabulary does not.
    """
    if not prompt:
        raise InputError("the prompt is empty, and it needs at least one character")
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary("characters", len(vocabulary), "".join(vocabulary))
    ids = vocabulary.encode(prompt, "the prompt")
    draw = Draw(temperature, top_k, top_p)
    keys = jax.random.split(jax.random.key(seed), length)
    return vocabulary.decode(drawn(model, params, ids, keys, draw, context_of(model, context), vocabulary.used))


def context_of(model: Layer, limit: int | None = None) -> int | None:
    """The number of tokens that a pass of the model can see; None where nothing limits it."""
    leaves = leaf_layers(model)
    lengths = [leaf.length for leaf in leaves if isinstance(leaf, Positions)]
    if limit is not None and any(isinstance(leaf, Attention) for leaf in leaves):
        lengths.append(limit)
    return min(lengths, default=None)


def drawn(
    model: Layer, params: PyTree, ids: np.ndarray, keys: jax.Array, draw: Draw, context: int | None, used: int
) -> np.ndarray:
    """The tokens that follow `ids` [T], one for each key; int32 [length]. Those from `used` on are never drawn."""
    length = len(keys)
    context = len(ids) + length if context is None else context
    half = max(context // 2, 1)
    text = np.asarray(ids, np.int32)
    carrying = with_carry(model, context)
    done = 0
    while done < length:
        window = text if done == 0 and len(text) <= context else text[-half:]
        count = min(context - len(window) + 1, length) if done == 0 else context - half + 1
        own = keys[np.minimum(np.arange(done, done + count), length - 1)]  # what is drawn after the end is left out
        new = continued(carrying, draw, used, params, jnp.asarray(window[None]), own)
        text = np.concatenate([text, np.asarray(new)])
        done += count
    return text[len(ids) : len(ids) + length]


@partial(jax.jit, static_argnums=(0, 1, 2))
def continued(model: Layer, draw: Draw, used: int, params: PyTree, window: jax.Array, keys: jax.Array) -> jax.Array:
    """One token for each key after the window [1, T]. The state is carried, so each costs a pass over one token."""

    def read(state: PyTree, ids: jax.Array) -> tuple[PyTree, jax.Array]:
        y, cache = model.forward(params, ids, Context.evaluation(state))
        return model.next_state(state, cache), y[0, -1, :used]

    def step(carry: tuple[PyTree, jax.Array], key: jax.Array) -> tuple[tuple[PyTree, jax.Array], jax.Array]:
        state, logits = carry
        token = draw(key, logits)
        return read(state, token[None, None]), token

    after_window = read(model.init_state(shaped(*window.shape, dtype=window.dtype)), window)
    return jax.lax.scan(step, after_window, keys)[1]


def text_of(model: Layer, preparation: Preparation | None, classes: Sequence[str] | None) -> Vocabulary | None:
    """What the ids stand for that a model reads and predicts; None where they are no text, or it has no memory."""
    if not any(hasattr(leaf, "carry") for leaf in leaf_layers(model)):
        return None
    if preparation is not None and isinstance(preparation.raw, Ids) and preparation.raw.vocabulary:
        return preparation.raw.vocabulary
    if classes and all(len(name) == 1 for name in classes):
        return Vocabulary("characters", len(classes), "".join(classes))
    return None
