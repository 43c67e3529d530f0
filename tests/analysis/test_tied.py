"""A parameter with uses of different kinds: what the factors tell equals jax.grad of each example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import Dense, Embedding, Graph, Node, Tanh
from jaxbp.analysis import curvature, kronecker, per_example
from jaxbp.check import worst
from jaxbp.check.truth import FLOAT64_TOLERANCE
from jaxbp.factors import Factors, JoinedFactors, tree_map
from jaxbp.layers.embedding import OneHotFactors
from jaxbp.losses import SoftmaxCrossEntropy

LOSS = SoftmaxCrossEntropy()
IDS = jnp.asarray([[3, 3, 3, 1, 0, 3], [10, 2, 10, 2, 10, 2], [4, 5, 6, 7, 8, 9]])


class Table(jaxbp.Layer):
    """Ids to the rows of the table "w" times a constant, without factors of its own."""

    def init(self, key, spec):
        return {"w": jax.random.normal(key, (11, 4), jnp.float32)}

    def forward(self, params, ids, ctx):
        return 0.7 * params["w"][ids], ids

    def backward(self, params, ids, dy):
        return None, {"w": jnp.zeros_like(params["w"]).at[ids].add(0.7 * dy)}


def tied(first, *middle):
    """A model of tokens whose output weights are the table of `first`."""
    nodes = [Node("embed", first, ("x",))]
    for i, layer in enumerate(middle):
        nodes.append(Node(f"layer{i}", layer, (nodes[-1].name,)))
    return Graph((*nodes, Node("head", Dense(11, bias=False), (nodes[-1].name,), shares="embed")))


def two_tables():
    """The same table for two inputs and the output: two uses of one kind, and one of another."""
    return Graph(
        (
            Node("embed", Embedding(11, 4), ("x",)),
            Node("again", Embedding(11, 4), ("x",), shares="embed"),
            Node("bend", Tanh(), ("again",)),
            Node("sum", jaxbp.Add(), ("embed", "bend")),
            Node("head", Dense(11, bias=False), ("sum",), shares="embed"),
        )
    )


def dense_first():
    """The parameter's owner is a Dense."""
    return Graph(
        (
            Node("owner", Dense(11, bias=False), ("a",)),
            Node("embed", Embedding(11, 4), ("b",), shares="owner"),
            Node("head", Dense(11, bias=False), ("embed",), shares="owner"),
            Node("sum", jaxbp.Add(), ("owner", "head")),
        ),
        ("a", "b"),
    )


MODELS = {
    "language model": tied(Embedding(11, 4), Dense(4), Tanh()),
    "three uses": two_tables(),
    "dense owns": dense_first(),
    "no factors": tied(Table(), Tanh()),
    "two kinds and none": Graph(
        (
            Node("embed", Embedding(11, 4), ("x",)),
            Node("table", Table(), ("x",), shares="embed"),
            Node("sum", jaxbp.Add(), ("embed", "table")),
            Node("bend", Tanh(), ("sum",)),
            Node("head", Dense(11, bias=False), ("bend",), shares="embed"),
        )
    ),
}
FAST = ("language model", "no factors")
for_models = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)


def setting(name, ids=IDS):
    """(model, float64 params, batch, each example's gradients as jax.grad has them)."""
    model = MODELS[name]
    x = ids
    if len(model.inputs) == 2:
        x = jax.random.normal(jax.random.key(3), (*ids.shape, 4), jnp.float64), ids
    params = jaxbp.cast(model.init(jax.random.key(0), jax.eval_shape(lambda: jaxbp.cast(x, jnp.float32))), jnp.float64)
    batch = {"x": x, "y": (ids + 2) % 11, "weight": jnp.ones(ids.shape, jnp.float64)}

    def objective(params, example):
        example = jax.tree.map(lambda a: a[None], example)
        y, _ = model.forward(params, example["x"], jaxbp.Context())
        return LOSS.forward(y, example["y"], example["weight"])[0]

    return model, params, batch, jax.jit(jax.vmap(jax.grad(objective), (None, 0)))(params, batch)


def squares(gradients):
    return jax.tree.map(lambda g: jnp.sum(jnp.square(g).reshape(len(g), -1), 1), gradients)


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 6])  # from the gradient, or from pairs of positions
@for_models
def test_norms(strict, name, length):
    model, params, batch, gradients = setting(name, IDS[:, :length])
    assert (
        worst(jax.jit(per_example.squared_norms(model, LOSS))(params, batch), squares(gradients)) <= FLOAT64_TOLERANCE
    )


@pytest.mark.slow
@for_models
def test_inner_products_and_second_moment(strict, name):
    model, params, batch, gradients = setting(name)
    rows = jnp.concatenate([g.reshape(len(g), -1) for g in jax.tree.leaves(gradients)], 1)
    assert worst(jax.jit(per_example.inner_products(model, LOSS))(params, batch), rows @ rows.T) <= FLOAT64_TOLERANCE
    moment = jax.tree.map(lambda g: jnp.sum(g * g, 0), gradients)
    assert worst(jax.jit(per_example.second_moment(model, LOSS))(params, batch), moment) <= FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["kept", "recomputed"])
@for_models
def test_clipping(strict, name, memory):
    model, params, batch, gradients = setting(name)
    norms = jnp.sqrt(sum(jax.tree.leaves(squares(gradients))))
    scale = jnp.minimum(1, float(jnp.median(norms)) / norms)
    clip = per_example.clipped_gradient(model, LOSS, float(jnp.median(norms)), "sum", memory)
    clipped = jax.jit(clip)(params, batch)
    truth = jax.tree.map(lambda g: jnp.einsum("n...,n->...", g, scale), gradients)
    assert worst(clipped.grads, truth) <= FLOAT64_TOLERANCE
    assert worst(clipped.norms, norms) <= FLOAT64_TOLERANCE


@for_models
def test_factors_give_each_examples_gradient(strict, name):
    model, params, batch, gradients = setting(name)
    factors = per_example.factored_pass(model, LOSS, params, batch, jaxbp.Context()).factors
    shaped = lambda p, g: g.reshape(-1, *p.shape)
    examples = tree_map(lambda leaf: leaf.example_gradients(), factors)
    assert worst(jax.tree.map(shaped, params, examples), gradients) <= FLOAT64_TOLERANCE
    assert any(isinstance(leaf, JoinedFactors) for leaf in jax.tree.leaves(factors, is_leaf=is_factors))


def is_factors(node):
    return isinstance(node, Factors)


@pytest.mark.slow
@for_models
def test_diagonals(strict, name):
    """Of the empirical Fisher matrix, item by item: the squares of the gradients of one item each."""
    model, params, batch, _ = setting(name)
    items = batch["weight"].size

    def objective(params, item):
        y, _ = model.forward(params, batch["x"], jaxbp.Context())
        return LOSS.forward(y, batch["y"], jnp.eye(items)[item].reshape(batch["weight"].shape))[0]

    gradients = jax.jit(jax.vmap(jax.grad(objective), (None, 0)))(params, jnp.arange(items))
    truth = jax.tree.map(lambda g: jnp.sum(g * g, 0), gradients)
    assert worst(jax.jit(curvature.diagonal(model, LOSS, "empirical"))(params, batch), truth) <= FLOAT64_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@for_models
def test_kronecker_factors(strict, name, sharing):
    """They keep the trace of the sum over the kinds. In their basis, the diagonal is that of the true gradients."""
    model, params, batch, gradients = setting(name)
    factored = per_example.factored_pass(model, LOSS, params, batch, jaxbp.Context())
    roots = curvature.Roots(factored.dy[None], per_item=False)
    weight = jnp.full(3, 1 / 3)
    pairs = kronecker.estimated(model, params, factored.cache, roots, weight, sharing)
    is_pair = lambda node: isinstance(node, kronecker.Kronecker)
    joined = [leaf for leaf in jax.tree.leaves(factored.factors, is_leaf=is_factors) if isinstance(leaf, JoinedFactors)]
    pair = max(jax.tree.leaves(pairs, is_leaf=is_pair), key=lambda pair: np.prod(pair.shape))
    if pair.a.shape[-1] > 1:
        trace = lambda part: np.prod(
            [np.sum(m) if m.ndim == 1 else np.trace(m) for m in part.kronecker(weight, sharing)]
        )
        traces = sum(trace(part) for part in joined[0].parts)
        assert abs(np.trace(pair.g) * np.trace(pair.a) / traces - 1) <= FLOAT64_TOLERANCE
    bases = kronecker.corrected(model, params, factored.cache, roots, kronecker.eigen(pairs))
    is_eigen = lambda node: isinstance(node, kronecker.Eigen)
    for basis, g in zip(jax.tree.leaves(bases, is_leaf=is_eigen), jax.tree.leaves(gradients), strict=True):
        moments = jax.vmap(lambda dw, basis=basis: jnp.square(basis.project(dw.reshape(basis.values.shape))))(g)
        assert worst(basis.values, jnp.sum(moments, 0)) <= 1e-10


def test_partial_traces_by_hand(strict):
    """G and A of one use each, added as the formula says; a sum over two halves of the weight is the whole."""
    rng = np.random.default_rng(0)
    ids, d = rng.integers(0, 11, (3, 6, 1)), rng.normal(size=(3, 6, 4))
    x, h = rng.normal(size=(3, 6, 4)), rng.normal(size=(3, 6, 11))
    joined = Factors(jnp.asarray(x), jnp.asarray(h)).concatenated(OneHotFactors(jnp.asarray(ids), jnp.asarray(d), 11))
    counts = np.bincount(ids.ravel(), minlength=11) / ids.size
    uses = [
        (np.diag(counts), np.einsum("nsi,nsj->ij", d, d)),
        (np.einsum("nso,nsp->op", h, h), np.einsum("nsi,nsj->ij", x, x) / 18),
    ]
    whole = sum(np.kron(*use) for use in uses).reshape(11, 4, 11, 4)
    g, a = joined.kronecker(jnp.full(3, 1 / 3), "expand")
    truth = np.kron(np.einsum("aibi->ab", whole), np.einsum("aiaj->ij", whole)) / np.einsum("aiai->", whole)
    assert worst(np.kron(g, a), truth) <= FLOAT64_TOLERANCE
    half_g, half_a = joined.kronecker(jnp.full(3, 1 / 6), "expand")
    assert worst(np.kron(2 * half_g, 2 * half_a), 2 * truth) <= FLOAT64_TOLERANCE
    silent = joined.scaled(jnp.zeros(3)).kronecker(jnp.full(3, 1 / 3), "expand")
    assert all(np.all(np.isfinite(matrix)) for matrix in silent)


def test_ids_outside_of_the_table_give_nothing(strict):
    rng = np.random.default_rng(0)
    ids = jnp.asarray([[[-1], [2], [11], [2]]])
    d, x, h = (jnp.asarray(rng.normal(size=(1, 4, width))) for width in (4, 4, 11))
    joined = OneHotFactors(ids, d, 11).concatenated(Factors(x, h))
    assert worst(joined.squared_norms(), jnp.sum(jnp.square(joined.gradient()))[None]) <= FLOAT64_TOLERANCE


def test_in_a_stack_of_blocks(strict):
    """The blocks' axis leads; the two uses of one kind have equal and different widths of their arrays."""
    block = Graph((Node("owner", Dense(4, bias=False), ("x",)), Node("square", Square(), ("owner",), shares="owner")))
    model = jaxbp.Stack(block, 3)
    x = jax.random.normal(jax.random.key(0), (3, 5, 4), jnp.float64)
    params = jaxbp.cast(model.init(jax.random.key(1), x), jnp.float64)
    y, cache = model.forward(params, x, jaxbp.Context())
    factors = model.sweep(jaxbp.rules.factors, params, cache, y)[1]["owner"]["w"]
    assert isinstance(factors, JoinedFactors)
    examples = model.sweep(jaxbp.rules.example_gradients, params, cache, y)[1]["owner"]["w"]  # [depth, N, 4, 4]
    assert worst(factors.example_gradients(), examples.reshape(factors.example_gradients().shape)) <= FLOAT64_TOLERANCE
    truth = jnp.sum(jnp.square(examples), (2, 3))
    assert worst(factors.squared_norms(), truth) <= FLOAT64_TOLERANCE
    assert worst(factors.scaled(jnp.asarray([2.0, 0, 1])).squared_norms(), truth * jnp.asarray([[4.0, 0, 1]])) <= 1e-13
    moment = factors.second_moment()
    assert worst(moment, jnp.sum(jnp.square(examples), 1).reshape(moment.shape)) <= FLOAT64_TOLERANCE


class Square(Dense):
    """A Dense without factors of its own."""

    def __init__(self):
        super().__init__(4, bias=False)

    def factors(self, params, cache, dy):
        return {}
