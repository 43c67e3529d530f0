"""Attention: both forms over pairs of options, its laws, JAX's own attention, and what the compiled program holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp import Attention, Context, InputError, shaped
from jaxbp.check import leaf_errors
from jaxbp.check.options import _choices
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.models import GPT
from jaxbp.ops.scaled_dot_product import attention, backward, forward
from jaxbp.ops.score_bias import by_place, diagonal_sums
from jaxbp.ops.weighting import Weighting
from tests.support import programs

pytestmark = pytest.mark.slow

N, T, HEADS, WIDTH = 2, 7, 4, 3
FORMS = pytest.mark.parametrize("form", ["stored", "chunked"])


def drawn(queries=T, keys=T, key_heads=HEADS, dtype=jnp.float64):
    """q, k, v and the delta of the output."""
    draw = np.random.default_rng(0)
    shapes = [(N, queries, HEADS, WIDTH), (N, keys, key_heads, WIDTH), (N, keys, key_heads, WIDTH)]
    return [jnp.asarray(draw.normal(size=shape), dtype) for shape in (*shapes, shapes[0])]


OPTIONS = {
    "causal": [False, True],
    "window": [None, 3],
    "soft_cap": [None, 1.5],
    "dropout": [0.0, 0.3],
    "masked": [False, True],
    "key_heads": [HEADS, 2],
    "keys": [T, 5],
    "bias": ["", "heads", "shared", "distance", "shared distance"],
}
BIAS = {  # shapes, for S keys
    "heads": lambda s: (1, HEADS, T, s),
    "shared": lambda s: (N, 1, 1, s),
    "distance": lambda s: (1, HEADS, T + s - 1),
    "shared distance": lambda s: (N, 1, T + s - 1),
}


def settings():
    """Settings in which every pair of values of two options occurs."""
    for choice in _choices([len(values) for values in OPTIONS.values()]):
        yield {name: OPTIONS[name][i] for name, i in zip(OPTIONS, choice, strict=True)}


def set_up(causal, window, soft_cap, dropout, masked, key_heads, keys, bias):
    """-> (Weighting's fields, the differentiable arguments, the others by name, delta)."""
    *qkv, do = drawn(keys=keys, key_heads=key_heads)
    draw = np.random.default_rng(1)
    fixed = {
        "seeds": jnp.arange(N, dtype=jnp.uint32) if dropout else None,
        "valid": jnp.asarray(draw.random((N, keys)) < 0.6) if masked else None,
    }
    b = jnp.asarray(draw.normal(size=BIAS[bias](keys))) if bias else None
    return {"causal": causal, "window": window, "soft_cap": soft_cap, "dropout": dropout}, (*qkv, b), fixed, do


@FORMS
@pytest.mark.parametrize("setting", list(settings()), ids=str)
def test_every_pair_of_options_is_the_vjp_of_its_own_forward(strict, form, setting):
    fields, arguments, fixed, do = set_up(**setting)
    weighting = Weighting(**fields, form=form, block=3)
    run = lambda q, k, v, bias: forward(weighting, q, k, v, **fixed, bias=bias)

    @jax.jit
    def both(arguments, do):
        o, vjp = jax.vjp(lambda *arguments: run(*arguments)[0], *arguments)
        return o, vjp(do), backward(weighting, run(*arguments)[1], do, arguments[3])

    o, truth, hand = both(arguments, do)
    assert max(leaf_errors(hand, truth).values()) <= FLOAT64_TOLERANCE
    if form == "chunked" and not setting["dropout"]:
        stored = forward(Weighting(**fields, form="stored"), *arguments[:3], **fixed, bias=arguments[3])[0]
        np.testing.assert_allclose(o, stored, atol=1e-14)


@pytest.mark.parametrize(("queries", "keys"), [(7, 5), (1, 4), (4, 1), (1, 1)])
def test_a_bias_by_distance_and_its_transpose(queries, keys):
    a = np.random.default_rng(0).normal(size=(1, 2, queries + keys - 1)).astype(np.float32)
    t, s = np.indices((queries, keys))
    np.testing.assert_array_equal(by_place(a, queries, keys), a[:, :, s - t + queries - 1])
    db = np.random.default_rng(1).normal(size=(1, 2, queries, keys)).astype(np.float32)
    sums = [np.trace(db, d, 2, 3) for d in range(1 - queries, keys)]
    np.testing.assert_allclose(diagonal_sums(db), np.stack(sums, -1), atol=1e-6)


@FORMS
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_that_of_jax(float64, form, causal):
    *qkv, do = drawn(key_heads=2)
    bias = jnp.asarray(np.random.default_rng(1).normal(size=(1, HEADS, T, T)))
    weighting = Weighting(causal, form=form, block=4)
    theirs, vjp = jax.vjp(lambda *a: jax.nn.dot_product_attention(*a, is_causal=causal), *qkv, bias)
    ours, our_vjp = jax.vjp(lambda q, k, v, bias: attention(weighting, q, k, v, bias=bias), *qkv, bias)
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
    assert all(np.all(np.isfinite(d)) and not np.any(d[0]) for d in backward(weighting, cache, do)[:3])


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


def test_the_kernel_of_jax_in_our_place(float64):
    """On GPU cuDNN's. The form itself is tried on any device; JAX takes the softmax in float32."""
    q, k, v, do = drawn(key_heads=2)
    kernel, stored = (Weighting(causal=True, window=3, form=form) for form in ("kernel", "stored"))
    for ours, theirs in zip(*(pulled(weighting, q, k, v, do) for weighting in (stored, kernel)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(InputError, match="form 'kernel' takes no soft cap, bias, mask"):
        forward(Weighting(soft_cap=1.0, form="kernel"), q, k, v)


def pulled(weighting, q, k, v, do):
    """(o, dq, dk, dv)."""
    o, vjp = jax.vjp(lambda *qkv: attention(weighting, *qkv), q, k, v)
    return o, *vjp(do)


def test_a_program_for_cuda_has_the_kernel(monkeypatch):
    """Of itself in half precision where nothing else is asked. Lowered only: no GPU is needed."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda *_: True)
    for dtype, takes in ((jnp.bfloat16, True), (jnp.float32, False)):
        q = jax.ShapeDtypeStruct((2, 128, 4, 64), dtype)
        traced = jax.jit(lambda *a: pulled(Weighting(causal=True), *a)).trace(q, q, q, q)
        program = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert ("fmhaSoftmaxBackward" in program) is takes


@FORMS
def test_a_constant_added_to_a_row_of_scores_changes_nothing(float64, form):
    """And so the deltas of each row of scores, which are those of the bias, add up to 0."""
    q, k, v, do = drawn()
    weighting = Weighting(causal=True, form=form, block=3)
    draw = np.random.default_rng(1)
    bias = jnp.asarray(draw.normal(size=(N, HEADS, T, T)))
    constant = jnp.asarray(draw.normal(size=(N, HEADS, T, 1)))
    o, cache = forward(weighting, q, k, v, bias=bias)
    np.testing.assert_allclose(forward(weighting, q, k, v, bias=bias + constant)[0], o, atol=1e-13)
    np.testing.assert_allclose(backward(weighting, cache, do, bias)[3].sum(-1), 0, atol=1e-13)
    o, cache = forward(weighting, q, k, v, bias=constant)
    np.testing.assert_allclose(o, forward(weighting, q, k, v)[0], atol=1e-13)
    np.testing.assert_allclose(backward(weighting, cache, do, constant)[3], 0, atol=1e-13)


def test_alibi_is_the_slopes_of_its_paper():
    """For eight heads 1/2, 1/4, ... 1/256."""
    layer = Attention(8, alibi=True)
    bias = layer.scores_bias({}, 3, 3, None, jnp.float32)
    np.testing.assert_allclose(bias[0, :, 0], -2 * 0.5 ** np.arange(1, 9), rtol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_buckets_are_those_of_t5(causal):
    transformers = pytest.importorskip("transformers.models.t5.modeling_t5")
    torch = pytest.importorskip("torch")
    layer = Attention(2, causal=causal, buckets=32, reach=128)
    distances = np.arange(-300, 1 if causal else 300)
    theirs = transformers.T5Attention._relative_position_bucket(torch.tensor(distances), not causal, 32, 128)
    np.testing.assert_array_equal(layer.distance.bucket(jnp.asarray(distances)), theirs)


def test_rotary_scores_depend_on_the_distance_alone(float64):
    layer = Attention(2, rotary=100.0, causal=True, window=2, bias=False)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 4)))
    params = jax.tree.map(lambda p: p.astype(jnp.float64), layer.init(jax.random.key(0), x))
    y = layer.forward(params, x)[0]
    np.testing.assert_allclose(layer.forward(params, x[:, 4:])[0][:, 1:], y[:, 5:], atol=1e-13)


@FORMS
def test_dropout_is_a_function_of_the_example_alone(form):
    q, k, v, _ = drawn(dtype=jnp.float32)
    weighting = Weighting(dropout=0.5, form=form, block=3)
    seeds = jnp.array([3, 8], jnp.uint32)
    together = forward(weighting, q, k, v, None, seeds)[0]
    alone = forward(weighting, q[1:], k[1:], v[1:], None, seeds[1:])[0]
    np.testing.assert_allclose(together[1:], alone, atol=1e-6)


def test_a_gpt_sees_no_later_class(float64):
    """Another class at a place changes the outputs from there on, and none before, to the bit."""
    model = GPT(outputs=5, width=8, depth=2, heads=2, context=6).build()
    ids = jnp.arange(6, dtype=jnp.int32)[None] % 5
    params = model.init(jax.random.key(0), ids)
    evaluate = jax.jit(lambda ids: model.forward(params, ids, Context.evaluation())[0])
    changed = evaluate(ids.at[0, 3].set(0)) != evaluate(ids)
    np.testing.assert_array_equal(changed.any((0, 2)), np.arange(6) >= 3)


# --- The program -------------------------------------------------------------------------------------------------


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
        (lambda: Attention(4, buckets=3), "Attention: buckets must be an even number, got 3"),
        (lambda: Attention(4, buckets=32, reach=32), "Attention: reach must be larger than buckets=32, got 32"),
        (
            lambda: Attention(4, cross=True).init(jax.random.key(0), shaped(2, 3, 8)),
            r"the input is \(x, memory\) or \(x, memory, valid\), got 1 arrays",
        ),
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
