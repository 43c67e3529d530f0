"""Attention: both forms over pairs of options, its laws, JAX's own attention, and what the compiled program holds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Attention, Context, InputError, shaped
from jaxbp.check import leaf_errors
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.models import GPT
from jaxbp.ops.attention import Weighting, attention, backward, forward
from tests.support import programs

N, T, HEADS, WIDTH = 2, 7, 4, 3
FORMS = pytest.mark.parametrize("form", ["stored", "chunked"])


def drawn(queries=T, keys=T, key_heads=HEADS, dtype=jnp.float64):
    """q, k, v and the delta of the output."""
    draw = np.random.default_rng(0)
    shapes = [(N, queries, HEADS, WIDTH), (N, keys, key_heads, WIDTH), (N, keys, key_heads, WIDTH)]
    return [jnp.asarray(draw.normal(size=shape), dtype) for shape in (*shapes, shapes[0])]


OPTIONS = {"causal": [False, True], "window": [None, 3], "soft_cap": [None, 1.5], "dropout": [0.0, 0.3]}


def pairs_of_options():
    """Settings in which every pair of values of two options occurs, masked keys and shared heads among the options."""
    names = [*OPTIONS, "masked", "key_heads"]
    values = [*OPTIONS.values(), [False, True], [HEADS, 2]]
    for parity in itertools.product([0, 1], repeat=3):  # a linear code: columns differ pairwise
        a, b, c = parity
        bits = [a, b, c, a ^ b, a ^ c, b ^ c]
        yield {name: allowed[bit] for name, allowed, bit in zip(names, values, bits, strict=True)}


@pytest.mark.slow
@FORMS
@pytest.mark.parametrize("setting", list(pairs_of_options()), ids=str)
def test_every_pair_of_options_is_the_vjp_of_its_own_forward(strict, form, setting):
    setting = dict(setting)
    q, k, v, do = drawn(key_heads=setting.pop("key_heads"))
    seeds = jnp.arange(N, dtype=jnp.uint32) if setting["dropout"] else None
    valid = jnp.asarray(np.random.default_rng(1).random((N, T)) < 0.6) if setting.pop("masked") else None
    weighting = Weighting(**setting, form=form, block=3)

    @jax.jit
    def both(q, k, v, do):
        o, vjp = jax.vjp(lambda q, k, v: forward(weighting, q, k, v, valid, seeds)[0], q, k, v)
        return o, vjp(do), backward(weighting, forward(weighting, q, k, v, valid, seeds)[1], do)

    o, truth, hand = both(q, k, v, do)
    assert max(leaf_errors(hand, truth).values()) <= FLOAT64_TOLERANCE
    if form == "chunked" and seeds is None:
        stored = forward(Weighting(**setting, form="stored"), q, k, v, valid)[0]
        np.testing.assert_allclose(o, stored, atol=1e-14)


@pytest.mark.slow
@FORMS
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_that_of_jax(float64, form, causal):
    q, k, v, do = drawn(key_heads=2)
    theirs, vjp = jax.vjp(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=causal), q, k, v)
    ours, our_vjp = jax.vjp(lambda q, k, v: attention(Weighting(causal, form=form, block=4), q, k, v), q, k, v)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)  # theirs takes the softmax in float32
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), our_vjp(do), vjp(do))


# --- Laws ----------------------------------------------------------------------------------------------------------


@FORMS
def test_no_query_sees_a_later_key(float64, form):
    """The Jacobian's entries above the diagonal are 0, not small."""
    q, k, v, _ = drawn()
    weighting = Weighting(causal=True, form=form, block=3)
    for argument in (1, 2):
        jacobian = jax.jit(jax.jacrev(lambda *qkv: attention(weighting, *qkv).sum((0, 2, 3)), argument))(q, k, v)
        reached = np.abs(jacobian).max((1, 3, 4))  # [T, T]
        np.testing.assert_array_equal(reached > 0, np.tri(T, dtype=bool) & (np.arange(T)[:, None] >= (2 - argument)))


@FORMS
def test_a_query_without_any_key_gives_zeros_and_gets_no_gradient(float64, form):
    q, k, v, do = drawn()
    valid = jnp.ones((N, T), bool).at[0].set(False)
    weighting = Weighting(soft_cap=2.0, form=form, block=3)
    o, cache = forward(weighting, q, k, v, valid)
    assert not np.any(o[0])
    assert all(np.all(np.isfinite(d)) and not np.any(d[0]) for d in backward(weighting, cache, do))


@FORMS
def test_a_zero_delta_gives_zero(float64, form):
    q, k, v, do = drawn()
    weighting = Weighting(causal=True, form=form, block=3)
    gradients = backward(weighting, forward(weighting, q, k, v)[1], 0 * do)
    assert not any(np.any(d) for d in gradients)


@FORMS
def test_a_key_that_all_share_changes_nothing(float64, form):
    """A vector added to every key adds a constant to every row of scores; so the deltas of the keys add up to 0."""
    q, k, v, do = drawn()
    weighting = Weighting(form=form, block=3)
    o, cache = forward(weighting, q, k, v)
    np.testing.assert_allclose(forward(weighting, q, k + k[:, :1], v)[0], o, atol=1e-13)
    np.testing.assert_allclose(backward(weighting, cache, do)[1].sum(1), 0, atol=1e-13)


@pytest.mark.slow
def test_rotary_scores_depend_on_the_distance_alone(float64):
    layer = Attention(2, rotary=100.0, causal=True, window=2, bias=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 4)))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), layer.init(jax.random.key(0), x))
    y = layer.forward(params, x)[0]
    np.testing.assert_allclose(layer.forward(params, x[:, 4:])[0][:, 1:], y[:, 5:], atol=1e-13)


@pytest.mark.slow
@FORMS
def test_dropout_is_a_function_of_the_example_alone(form):
    q, k, v, _ = drawn(dtype=jnp.float32)
    weighting = Weighting(dropout=0.5, form=form, block=3)
    seeds = jnp.array([3, 8], jnp.uint32)
    together = forward(weighting, q, k, v, None, seeds)[0]
    alone = forward(weighting, q[1:], k[1:], v[1:], None, seeds[1:])[0]
    np.testing.assert_allclose(together[1:], alone, atol=1e-6)


@pytest.mark.slow
def test_a_gpt_sees_no_later_class(float64):
    """Another class at a place changes the outputs from there on, and none before, to the bit."""
    model = GPT(outputs=5, width=8, depth=2, heads=2, context=6).build()
    ids = jnp.arange(6, dtype=jnp.int32)[None] % 5
    params = model.init(jax.random.key(0), ids)
    evaluate = jax.jit(lambda ids: model.forward(params, ids, Context.evaluation())[0])
    changed = evaluate(ids.at[0, 3].set(0)) != evaluate(ids)
    np.testing.assert_array_equal(changed.any((0, 2)), np.arange(6) >= 3)


# --- The program -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_chunked_form_is_linear_in_memory():
    def temporary(length, run):
        spec = shaped(1, length, 2, 16)
        program = programs.compiled(jax.jit(run).lower(spec, spec, spec, spec))
        return program.memory_analysis().temp_size_in_bytes

    def by_hand(q, k, v, do):
        weighting = Weighting(causal=True)
        o, cache = forward(weighting, q, k, v)
        return o, backward(weighting, cache, do)

    def by_autodiff(q, k, v, do):
        o, vjp = jax.vjp(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), q, k, v)
        return o, vjp(do)

    assert temporary(4096, by_hand) <= 2.2 * temporary(2048, by_hand)
    assert temporary(4096, by_hand) <= temporary(4096, by_autodiff) / 10


# --- What does not fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Attention(0), "Attention: heads must be at least 1, got 0"),
        (lambda: Attention(4, key_heads=3), "Attention: key_heads must be a divisor of heads=4, got 3"),
        (lambda: Attention(4, dropout=1.0), r"Attention: dropout must be in \[0, 1\), got 1.0"),
        (lambda: Attention(4, form="store"), "unknown Attention form 'store'; did you mean 'stored'?"),
        (lambda: Attention(4).init(jax.random.key(0), shaped(2, 3, 6)), "heads must divide the 6 features"),
        (lambda: Attention(4).init(jax.random.key(0), shaped(2, 8)), r"the input is \[N, T, E\], got \[2, 8\]"),
        (lambda: Attention(2, rotary=10.0).init(jax.random.key(0), shaped(2, 3, 6)), "even width of a head, got 3"),
    ],
)
def test_settings_that_do_not_fit(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_dropout_without_a_key_is_refused():
    layer = Attention(2, dropout=0.1)
    x = jnp.ones((1, 3, 4))
    params = layer.init(jax.random.key(0), x)
    with pytest.raises(InputError, match="needs a random key"):
        layer.forward(params, x, Context())
    layer.forward(params, x, Context.evaluation())
