"""Decoding: what comes in parts, behind the state of the parts before, gives the outputs of the whole."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Attention, Context, InputError, Positions, SinusoidalPositions, shaped
from jaxbp.core import cast
from jaxbp.layers.recurrent import with_carry
from jaxbp.models import GPT

ROWS, TIME, WIDTH = 2, 9, 8
LAYERS = {
    "plain": Attention(2, causal=True),
    "shared window": Attention(4, causal=True, key_heads=2, window=3, soft_cap=2.0),
    "rotary chunked": Attention(2, causal=True, rotary=10.0, form="chunked", block=4),
    "alibi": Attention(2, causal=True, alibi=True),
    "buckets chunked": Attention(2, causal=True, buckets=4, reach=6, form="chunked", block=4),
    "learned positions": Positions(TIME),
    "sines": SinusoidalPositions(),
}
PARTS = [4, 1, 1, 1, 2]


def in_parts(model, params, x):
    """The outputs side by side, of a program that is compiled once for each length of a part."""

    @jax.jit
    def step(state, x):
        y, cache = model.forward(params, x, Context.evaluation(state))
        return model.next_state(state, cache), y

    state = cast(model.init_state(jax.tree.map(lambda a: shaped(*a.shape, dtype=a.dtype), x)), jnp.float64)
    outputs = []
    for end, length in zip(np.cumsum(PARTS), PARTS, strict=True):
        state, y = step(state, jax.tree.map(lambda a, e=end, n=length: a[:, e - n : e], x))
        outputs.append(y)
    assert step._cache_size() == len(set(PARTS))
    return jnp.concatenate(outputs, 1)


def drawn(layer, x):
    """Parameters in float64, none of them 0."""
    params = layer.init(jax.random.key(0), shaped(*x.shape))
    return jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape, jnp.float64), params)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_parts_give_the_outputs_of_the_whole(float64, name):
    layer = LAYERS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, TIME, WIDTH)))
    params = drawn(layer, x)
    whole, _ = layer.forward(params, x, Context.evaluation())
    np.testing.assert_allclose(in_parts(with_carry(layer, TIME), params, x), whole, atol=1e-13)


@pytest.mark.slow
def test_flags_are_kept(float64):
    """A prompt that is filled up on the left gives the outputs of the prompt alone."""
    layer = Attention(2, causal=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, TIME, WIDTH)))
    flags = jnp.broadcast_to(jnp.arange(TIME) >= 2, (ROWS, TIME))
    params = drawn(layer, x)
    outputs = in_parts(with_carry(layer, TIME), params, (x, flags))
    np.testing.assert_allclose(outputs[:, 2:], layer.forward(params, x[:, 2:])[0], atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "keep"), [("learned", "all"), ("rotary", "sqrt")])
def test_a_gpt_in_parts(float64, positions, keep):
    model = GPT(outputs=5, width=8, depth=4, heads=2, context=TIME, positions=positions, keep=keep).build()
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 5, (ROWS, TIME)), jnp.int32)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), model.init(jax.random.key(0), ids))
    whole, _ = model.forward(params, ids, Context.evaluation())
    np.testing.assert_allclose(in_parts(with_carry(model, TIME), params, ids), whole, atol=1e-13)


@pytest.mark.slow
def test_what_does_not_fit_into_the_state():
    x = jnp.ones((1, 3, 4))
    for layer in (Attention(2, causal=True, carry=4), Positions(4, carry=True)):
        params = layer.init(jax.random.key(0), x)
        state = layer.init_state(x) | {"position": jnp.int32(2)}
        y, _ = layer.forward(params, x, Context.evaluation(state))
        assert np.isnan(y[0, -1]).all()
    short = replace(LAYERS["plain"], carry=2)
    params = short.init(jax.random.key(0), x)
    with pytest.raises(InputError, match="the state holds 2 positions, and the input has 3"):
        short.forward(params, x, Context.evaluation(short.init_state(x)))
    with pytest.raises(
        InputError, match="Attention: carry must be 0, or positive with causal and without cross, got 3"
    ):
        Attention(2, carry=3)
