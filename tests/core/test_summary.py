"""A model's table, with its operations beside the compiler's own count, and parameters in a file."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxbp
from jaxbp import Chain, Dense, Dropout, Embedding, Graph, InputError, Node, Stack, Tanh, summary
from jaxbp.config import load
from jaxbp.core import map_leaves, shaped
from jaxbp.summary import cost
from tests.support.programs import compiled

KEY = jax.random.key(0)
X = jnp.zeros((5, 3))
CNN = load(Path(__file__).parents[2] / "configs" / "mnist_cnn.py").model.build()


def compilers_count(f, *arguments):
    return compiled(jax.jit(f).lower(*arguments)).cost_analysis()["flops"]


def passes(model, x):
    """Forward and backward without the loss, and what they take."""

    def run(params, x, key, dy):
        y, cache = model.forward(params, x, jaxbp.Context(key))
        return y, model.backward(params, cache, dy)[1]

    return run, jax.eval_shape(model.init, KEY, x), x, KEY, jaxbp.output_spec(model, x)


def test_operations_are_the_compilers_own_count_on_mnist_cnn():
    """At a batch of 8, where no convolution is a loop: the compiler counts the body of a loop once."""
    spec = shaped(8, 28, 28, 1)
    total = summary(CNN, spec).total
    assert total.forward + total.backward == pytest.approx(compilers_count(*passes(CNN, spec)), rel=0.02)


class PlainConv(jaxbp.Conv):
    """The same forward by one convolution of XLA, without a loop."""

    label = "conv"

    def forward(self, params, x, ctx):
        axes = (0, 3, 1, 2)
        layout = lax.ConvDimensionNumbers(axes, axes, axes)
        padding = self.window(x.shape[1:-1]).padding
        return lax.conv_general_dilated(x, params["w"], (1, 1), padding, dimension_numbers=layout) + params["b"], x


@pytest.mark.slow
def test_operations_are_those_of_autodiff_of_a_plain_network():
    """At the batch that mnist_cnn trains with; the compiled program of this form has no loops at any batch."""
    spec = shaped(128, 28, 28, 1)
    as_plain = lambda leaf: PlainConv(leaf.features, leaf.kernel, padding=leaf.padding)
    plain = map_leaves(CNN, lambda leaf: as_plain(leaf) if isinstance(leaf, jaxbp.Conv) else leaf)

    def run(params, x, key, dy):
        y, back = jax.vjp(lambda params: plain.forward(params, x, jaxbp.Context(key))[0], params)
        return y, back(dy)

    total = summary(CNN, spec).total
    assert total.forward + total.backward == pytest.approx(compilers_count(run, *passes(CNN, spec)[1:]), rel=0.02)


def test_operations_grow_with_the_batch():
    """Not to the digit: a form that is faster for many examples may have a few more."""
    small, large = (summary(CNN, shaped(n, 28, 28, 1)).total for n in (8, 128))
    assert large.forward == pytest.approx(16 * small.forward, rel=0.02)
    assert large.backward == pytest.approx(16 * small.backward, rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [{}, {"window_strides": (2, 3)}, {"lhs_dilation": (2, 3)}, {"rhs_dilation": (1, 2)}, {"feature_group_count": 2}],
    ids=str,
)
def test_a_convolution_counts_what_meets_no_padding(settings):
    settings = {"window_strides": (1, 1), "padding": ((1, 2), (0, 1))} | settings
    x, w = jnp.ones((5, 4, 7, 11)), jnp.ones((6, 4 // settings.get("feature_group_count", 1), 3, 2))
    run = lambda x, w: lax.conv_general_dilated(x, w, **settings)
    (eqn,) = jax.make_jaxpr(run)(x, w).eqns
    assert cost(eqn) == compilers_count(run, x, w)


def test_a_row_for_every_leaf_in_forward_order():
    model = Chain(Dense(7), Chain(Tanh(), Dropout(0.5)), Dense(2, bias=False))
    table = summary(model, X)
    assert [row.path for row in table.rows] == ["00_dense", "01_chain/00_tanh", "01_chain/01_dropout", "02_dense"]
    assert [row.output for row in table.rows] == ["[5, 7]"] * 3 + ["[5, 2]"]
    assert [row.parameters for row in table.rows] == [28, 0, 0, 14]
    assert (table.total.parameters, table.total.bytes) == (42, 168)
    first, *_, last = table.rows
    assert first.forward == 5 * 7 * (2 * 3 + 1)
    assert (last.forward, last.backward) == (5 * 2 * 2 * 7, 2 * 5 * 2 * 2 * 7)
    assert first.backward == pytest.approx(5 * 7 * 2 * 3, rel=0.25)  # its dx is not used
    assert sum(row.forward for row in table.rows) == table.total.forward
    assert sum(row.backward for row in table.rows) == table.total.backward
    assert summary(model, X, train=False).rows[2].forward == 0
    wide = summary(Chain(Dense(500), Tanh(), Dense(2)), jnp.zeros((1, 2)))
    assert wide.total.parameters == 2 * 500 + 500 + 500 * 2 + 2 == 2502


@pytest.mark.parametrize("keep", ["all", "sqrt"])
def test_a_loop_counts_as_often_as_it_runs(keep):
    block = Chain(Dense(3), Tanh())
    one, stacked = (next(iter(summary(model, X))) for model in (block, Chain(Stack(block, 12, keep))))
    assert stacked.path == "00_stack/00_dense"
    assert (stacked.parameters, stacked.forward) == (12 * one.parameters, 12 * one.forward)
    short, long = (summary(Chain(jaxbp.Recurrent(jaxbp.GRUCell(4))), shaped(5, t, 3)).total for t in (6, 12))
    assert long.forward == pytest.approx(2 * short.forward, rel=0.05)
    assert long.backward == pytest.approx(2 * short.backward, rel=0.05)


def test_tied_parameters_count_once_and_any_model_has_a_table():
    tied = Graph((Node("a", Dense(3), "x"), Node("b", Dense(3), "a", shares="a")))
    table = summary(tied, X)
    assert [row.parameters for row in table.rows] == [12, 0]
    assert table.total.parameters == 12
    assert [row.path for row in summary(Dense(2), X)] == ["dense", "total"]
    assert summary(Chain(), X).rows == ()
    assert summary(Chain(Embedding(11, 3), Dense(2)), jnp.zeros((5, 7), int)).total.output == "[5, 7, 2]"
    normed = summary(Chain(Dense(3), jaxbp.BatchNorm()), X)
    assert normed.rows[1].forward > 0


def test_the_table_prints_aligned():
    lines = str(summary(CNN, shaped(8, 28, 28, 1))).splitlines()
    assert lines[0].split() == ["path", "layer", "output", "parameters", "bytes", "forward", "backward"]
    assert len({len(line) for line in lines}) == 1
    assert "317,066" in lines[-1]


def test_an_input_that_does_not_fit_is_one_line():
    with pytest.raises(InputError, match=r"^00_conv: Conv: an input of shape"):
        summary(CNN, X)


# ------------------------------------------------------------------------------------------------- parameters in a file

MODEL = Chain(Dense(7), Tanh(), Stack(Dense(7), 2))
PARAMS = MODEL.init(KEY, X)


def test_parameters_come_back_from_a_file(tmp_path):
    pytest.importorskip("safetensors", reason="pip install 'jaxbp[safetensors]'")
    file = tmp_path / "model.safetensors"
    for params in (PARAMS, jaxbp.cast(PARAMS, jnp.bfloat16)):
        jaxbp.save_parameters(file, params)
        loaded = jaxbp.load_parameters(str(file), like=jax.eval_shape(lambda params=params: params))
        assert jax.tree.structure(loaded) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (Chain(Dense(7), Tanh()).init(KEY, X), "unknown parameter in .*: '02_stack/b'"),
        (PARAMS | {"03_dense": {"w": X}}, "has no parameter '03_dense/w'"),
        (PARAMS | {"00_dense": PARAMS["00_dense"] | {"b": X}}, r"'00_dense/b' is float32 \[7\], and float32 \[5, 3\]"),
        (jaxbp.cast(PARAMS, jnp.bfloat16), "is float32 .*, and bfloat16"),
    ],
)
def test_parameters_of_another_model_are_refused(tmp_path, like, words):
    pytest.importorskip("safetensors", reason="pip install 'jaxbp[safetensors]'")
    jaxbp.save_parameters(tmp_path / "a", PARAMS)
    with pytest.raises(InputError, match=words):
        jaxbp.load_parameters(tmp_path / "a", like)


def test_a_file_that_holds_no_parameters_is_one_line(tmp_path):
    pytest.importorskip("safetensors", reason="pip install 'jaxbp[safetensors]'")
    (tmp_path / "text").write_text("no parameters")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        jaxbp.load_parameters(tmp_path / "text", PARAMS)
    with pytest.raises(InputError, match="there is no file"):
        jaxbp.load_parameters(tmp_path / "none", PARAMS)


def test_without_safetensors_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.flax", None)
    with pytest.raises(InputError, match=r"pip install 'jaxbp\[safetensors\]'"):
        jaxbp.save_parameters(tmp_path / "a", PARAMS)
