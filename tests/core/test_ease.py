"""What is easy: models and batches written shortly, and one line that names the layer where something does not fit."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import (
    Chain,
    Context,
    Conv,
    Dense,
    Dropout,
    Graph,
    InputError,
    MaxPool,
    Node,
    Stack,
    Tanh,
    parallel,
    residual,
)
from jaxbp.check import check_model
from jaxbp.core import LayerError, output_spec, shaped

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (5, 3))
LONG = Chain(
    Conv(8, (5, 5), groups=2), residual(Chain(Conv(8), Tanh())), Stack(Chain(Dense(8), Dropout(0.3)), 12, keep="sqrt")
)


# ---------------------------------------------------------------------------------------------------- making models


def test_layers_one_by_one_in_a_tuple_or_in_a_list_make_the_same_chain():
    layers = (Dense(8), Tanh())
    chains = [Chain(*layers), Chain(layers), Chain(list(layers)), Chain(layers=layers)]
    assert len(set(chains)) == 1
    assert all(chain.layers == layers for chain in chains)
    assert replace(chains[0], layers=(Tanh(),)) == Chain(Tanh()) == Chain([Tanh()])
    assert Chain() == Chain(()) == Chain([])
    assert Chain(Chain(Tanh())) != Chain(Tanh())


@pytest.mark.parametrize("children", [(Dense,), (Dense(3), Tanh), (8,), ((Dense(3), None),), (Dense(3), [Tanh()])])
def test_what_is_no_layer_is_refused_in_a_chain(children):
    with pytest.raises(InputError, match=r"^Chain: .* is not a layer$"):
        Chain(*children)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Chain(Dense(8), Tanh()), "Chain(Dense(8), Tanh())"),
        (Chain(), "Chain()"),
        (Dense(8, bias=False), "Dense(8, bias=False)"),
        (Conv(8, 3), "Conv(8, kernel=3)"),
        (MaxPool((2, 2), 2), "MaxPool((2, 2), strides=2)"),
        (
            Graph(Node("a", Tanh(), "x") for _ in range(1)),
            "Graph((Node(name='a', layer=Tanh(), inputs=('x',), shares=None),))",
        ),
    ],
)
def test_a_layer_prints_as_the_call_that_makes_it(layer, text):
    assert repr(layer) == text
    assert eval(text, vars(jaxbp).copy()) == layer


def test_a_long_model_prints_a_layer_a_line():
    lines = repr(LONG).splitlines()
    assert lines[:2] == ["Chain(", "    Conv(8, kernel=(5, 5), groups=2),"]
    assert max(map(len, lines)) <= 120
    assert eval(repr(LONG), vars(jaxbp).copy()) == LONG


@dataclass(frozen=True)
class Shifted(jaxbp.Layer):
    factor: float
    shift: float = 0.0


@dataclass(frozen=True)
class Named(jaxbp.Layer):
    def __repr__(self):
        return "own"


def test_a_users_layer_prints_without_its_defaults_and_may_print_as_it_likes():
    assert repr(Shifted(2.0)) == "Shifted(2.0)"
    assert repr(Shifted(2.0, 1.0)) == "Shifted(2.0, shift=1.0)"
    assert repr(Chain(Named())) == "Chain(own)"


@pytest.mark.parametrize(("space", "kernel"), [((11,), (3,)), ((5, 7), (3, 3)), ((5, 2, 3), (3, 3, 3))])
def test_one_kernel_size_serves_all_axes(space, kernel):
    spec = shaped(2, *space, 4)
    short, whole = Conv(8, 3, strides=2), Conv(8, kernel, strides=2)
    params = short.init(KEY, spec)
    np.testing.assert_array_equal(params["w"], whole.init(KEY, spec)["w"])
    x = jax.random.normal(KEY, spec.shape)
    (y, cache), (wanted, _) = (layer.forward(params, x) for layer in (short, whole))
    np.testing.assert_array_equal(y, wanted)
    for back, expected in zip(short.backward(params, cache, y), whole.backward(params, x, y), strict=True):
        jax.tree.map(np.testing.assert_array_equal, back, expected)
    assert short.factors(params, x, y)["w"].window == whole.window(space)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Conv(8, 0), "kernel must be 1 to 3 sizes of at least 1, got 0"),
        (lambda: Conv(8, 3, strides=(2, 1)), "for each axis need a kernel for each axis, got 3"),
        (lambda: Conv(8, 3, padding=((1, 1),)), "for each axis need a kernel for each axis, got 3"),
        (lambda: Conv(8, 3).init(KEY, shaped(5, 3)), "does not have 1 spatial axes"),
        (lambda: Conv(8, 3).init(KEY, shaped(2, 2, 2, 2, 2, 2)), "does not have 3 spatial axes"),
        (lambda: MaxPool((2, 2), 0), "strides must be a tuple of one size of at least 1"),
        (lambda: MaxPool(2, 2), "window must be a tuple of one size of at least 1"),
    ],
)
def test_ints_that_are_not_clear_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_one_stride_serves_all_axes():
    x = jnp.arange(48.0).reshape(1, 6, 8, 1)
    one, both = MaxPool((3, 2), 2), MaxPool((3, 2), (2, 2))
    np.testing.assert_array_equal(one.forward({}, x)[0], both.forward({}, x)[0])


def test_a_node_takes_one_name_and_a_graph_a_list():
    nodes = [Node("a", Tanh(), "image"), Node("b", jaxbp.Add(), ("a", "image"))]
    assert nodes[0] == Node("a", Tanh(), ("image",))
    assert Graph(nodes, "image") == Graph(tuple(nodes), ("image",))
    assert hash(Graph(nodes, "image")) == hash(Graph(nodes, ["image"]))


@pytest.mark.parametrize(
    ("make", "words"), [(lambda: Graph(()), "^Graph: at least one"), (parallel, "^parallel: at l")]
)
def test_nothing_is_no_graph(make, words):
    with pytest.raises(InputError, match=words):
        make()


# ---------------------------------------------------------------------------------------------------- using models


@pytest.mark.parametrize("model", [Chain(Dense(3), Tanh()), residual(Dense(3)), Stack(Dense(3), 2)], ids=str)
def test_an_array_is_a_spec_and_the_context_has_a_default(model):
    params = model.init(KEY, X)
    jax.tree.map(np.testing.assert_array_equal, params, model.init(KEY, shaped(5, 3)))
    np.testing.assert_array_equal(model.forward(params, X)[0], model.forward(params, X, Context())[0])
    assert model.init(KEY, np.asarray(X)).keys() == params.keys()


@dataclass(frozen=True)
class LogCosh(jaxbp.Loss):
    """sum log cosh (y - t), in a form that does not overflow; its delta is tanh (y - t)."""

    def items(self, y, target):
        e = y - target
        return jnp.sum(jnp.logaddexp(e, -e) - jnp.log(2.0), -1), e

    def deltas(self, cache):
        return jnp.tanh(cache)


@pytest.mark.slow
def test_a_loss_of_ones_own_is_two_functions(float64):
    batch = jaxbp.batch(X, jnp.zeros((5, 2)))
    model = Chain(Dense(2), Tanh())
    params = model.init(KEY, X)
    report = check_model(model, LogCosh(), params, batch)
    assert report.passed, report
    y = np.asarray(model.forward(params, X)[0])
    value, _ = LogCosh().forward(y, batch["y"], batch["weight"])
    np.testing.assert_allclose(value, np.log(np.cosh(y)).sum() / 5, rtol=1e-5)


@pytest.mark.parametrize("keep", ["all", "input", "sqrt"])
def test_a_stack_of_layers_without_parameters_needs_no_key(keep):
    model = Stack(jaxbp.Identity(), 4, keep)
    y, cache = model.forward({}, X)
    np.testing.assert_array_equal(y, X)
    np.testing.assert_array_equal(model.backward({}, cache, X)[0], X)


def test_the_context_of_an_evaluation():
    assert Context.evaluation() == Context(train=False)
    model = Chain(jaxbp.BatchNorm(), Dropout(0.5))
    state = model.init_state(X)
    y, _ = model.forward(model.init(KEY, X), X, Context.evaluation(state))
    np.testing.assert_allclose(y, X, rtol=1e-4)


MODEL, LOSS = Chain(Dense(2)), jaxbp.SoftmaxCrossEntropy()
PARAMS = MODEL.init(KEY, X)
LABELS = jnp.array([0, 1, 1, 0, 1])
MEAN = {"x": X, "y": LABELS, "weight": jnp.full(5, 0.2)}


def value(batch):
    return float(jaxbp.value_and_grad(MODEL, LOSS)(PARAMS, batch).value)


@pytest.mark.slow
def test_a_batch_averages_over_the_items_that_count():
    assert value(jaxbp.batch(X, LABELS)) == pytest.approx(value(MEAN))
    mask = np.array([True, False, True, False, False])
    assert value(jaxbp.batch(X, np.asarray(LABELS).tolist(), mask)) == pytest.approx(
        value(jaxbp.batch(X[mask], LABELS[mask]))
    )
    assert value(jaxbp.batch(X, LABELS, np.zeros(5))) == 0
    assert jaxbp.batch(X, jnp.zeros((5, 7, 2)))["weight"].shape == (5, 7)
    assert jaxbp.batch(X, jnp.zeros((5, 7), int))["weight"].shape == (5, 7)


def test_weights_may_be_one_number_or_missing():
    batch = {"x": X, "y": LABELS}
    assert value(batch) == pytest.approx(value(MEAN))
    assert value(batch | {"weight": 0.2}) == pytest.approx(value(MEAN))
    assert value(batch | {"weight": 1}) == pytest.approx(5 * value(MEAN))


@pytest.mark.parametrize("key", ["x", "y"])
def test_a_batch_without_a_key_is_one_line(key):
    batch = {name: entry for name, entry in MEAN.items() if name != key}
    with pytest.raises(InputError, match=rf"^the batch has no '{key}' \(it has: .*weight\); see jaxbp.batch"):
        value(batch)


# ---------------------------------------------------------------------------------------------------- what does not fit


@dataclass(frozen=True)
class Faulty(Dense):
    """Raises in one of its passes."""

    where: str = "forward"
    error: type = TypeError
    label = "dense"

    def forward(self, params, x, ctx):
        if self.where == "forward":
            raise self.error("no")
        return super().forward(params, x, ctx)

    def backward(self, params, cache, dy):
        raise self.error("no")


WRAPPED = {
    "chain": (lambda layer: Chain(Tanh(), layer), "01_{}"),
    "nested": (lambda layer: Chain(Chain(Tanh(), layer)), "00_chain/01_{}"),
    "graph": (residual, "body"),
    "stack": (lambda layer: Chain(Stack(Chain(layer), 2)), "00_stack/00_{}"),
    "sqrt": (lambda layer: Chain(Stack(Chain(layer), 4, "sqrt")), "00_stack/00_{}"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_width_that_does_not_fit_names_the_layer_and_the_shapes(name):
    wrap, path = WRAPPED[name]
    model = wrap(Dense(3))
    params = model.init(KEY, X)
    with pytest.raises(InputError) as caught:
        jax.jit(model.forward)(params, jnp.ones((5, 4)))
    assert str(caught.value).startswith(
        f"{path.format('dense')}: input (5, 4), parameters b (3,), w (3, 3): ValueError: "
    )
    assert "\n" not in str(caught.value)
    assert type(caught.value.__cause__) is ValueError


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", WRAPPED)
def test_an_error_names_the_layer_in_both_passes(name, where):
    wrap, path = WRAPPED[name]
    model, shapes = wrap(Faulty(3, where=where)), {"forward": "input", "backward": "delta"}[where]
    params = wrap(Dense(3)).init(KEY, X)
    words = rf"^{path.format('dense')}: {shapes} \(5, 3\), parameters b \(3,\), w \(3, 3\): TypeError: no$"
    with pytest.raises(InputError, match=words):
        model.backward(params, model.forward(params, X)[1], X)


def test_an_error_of_another_kind_keeps_its_type_and_gets_a_note():
    class Stopped(RuntimeError):
        pass

    model = Chain(Chain(Faulty(3, error=Stopped)))
    with pytest.raises(Stopped) as caught:
        model.forward({"00_chain": {"00_dense": {}}}, X)
    assert caught.value.__notes__ == ["in layer 00_dense: input (5, 3)", "in layer 00_chain: input (5, 3)"]


def test_a_layers_own_line_gets_the_path():
    model = Chain(Tanh(), Dropout(0.5))
    with pytest.raises(LayerError, match=r"^01_dropout: Dropout: training needs a random key"):
        model.forward({"00_tanh": {}, "01_dropout": {}}, X)
    with pytest.raises(LayerError, match=r"^00_chain/00_conv: Conv: an input of shape"):
        Chain(Chain(Conv(3))).init(KEY, X)
    with pytest.raises(LayerError, match=r"^00_chain/00_conv: Conv: an input of shape"):
        output_spec(Chain(Chain(Conv(3)), Tanh()), X)


def test_parameters_of_another_model_are_one_line():
    with pytest.raises(InputError, match=r"^the parameters have no '01_tanh' \(they have: 00_dense\)$"):
        Chain(Dense(2), Tanh()).forward(PARAMS, X)
    with pytest.raises(InputError, match=r"^00_chain: the parameters have no '00_dense' \(they have: nothing\)$"):
        Chain(Chain(Dense(2))).forward({"00_chain": {}}, X)


@pytest.mark.parametrize("x", [X, (X,), (X, X, X)], ids=["array", "one", "three"])
def test_a_graph_of_two_inputs_needs_two(x):
    model = Graph((Node("sum", jaxbp.Add(), ("a", "b")),), ("a", "b"))
    with pytest.raises(InputError, match=r"^Graph: x must be a tuple of 2 inputs: a, b$"):
        model.forward({"sum": {}}, x)


def test_operations_carry_the_layers_names():
    model = Chain(Chain(Dense(3), Tanh()), residual(Dense(3)))
    params = model.init(KEY, X)
    gradient = jaxbp.value_and_grad(model, jaxbp.SquaredError())
    text = jax.jit(gradient).lower(params, jaxbp.batch(X, X)).as_text(debug_info=True)
    for name in (
        "00_chain/00_dense",
        "00_chain/01_tanh",
        "01_graph/body",
        "backward/00_chain/00_dense",
        "backward/01_graph/body",
    ):
        assert name in text
