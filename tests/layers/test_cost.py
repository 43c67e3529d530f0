"""What a gradient costs, in operations of the program before it is compiled."""

import jax
import jax.numpy as jnp
import pytest

import jaxbp
from jaxbp.analysis import products
from jaxbp.losses import SoftmaxCrossEntropy
from jaxbp.models import CNN, MLP, RNN, ResNet
from tests.support import conformance

DECOMPOSITIONS = (jaxbp.Spectral, jaxbp.Eigh, jaxbp.Svd)  # the library's own operations are not counted
FIRST_OF_CLASS = {type(case.layer): case for case in reversed(conformance.all_cases())}.values()
COUNTED = [case for case in FIRST_OF_CLASS if not isinstance(case.layer, (*DECOMPOSITIONS, jaxbp.BlackBox))]


def operations(f, *arguments):
    """Of floating-point numbers, in the program that JAX hands to the compiler."""
    count = jax.jit(f).lower(*arguments).cost_analysis()
    return count.get("flops", 0) + count.get("transcendentals", 0)


def size(*trees):
    return sum(a.size for a in jax.tree.leaves(trees))


@pytest.mark.nightly
@pytest.mark.parametrize("case", COUNTED, ids=str)
def test_forward_and_backward_of_a_layer_cost_at_most_four_forward_passes(case):
    """Numbers that are read and written count as operations: all once forward, and once more back."""
    params, x, ctx, dy = conformance.setting(case, dtype=jnp.float32)
    layer = case.layer

    def both(params, x, ctx, dy):
        y, cache = layer.forward(params, x, ctx)
        return y, layer.backward(params, cache, dy)

    moved = size(params, x, dy)
    forward = operations(lambda *a: layer.forward(*a)[0], params, x, ctx) + moved
    assert operations(both, params, x, ctx, dy) + 2 * moved <= 4 * forward


MODELS = {
    "mlp": (MLP(outputs=3, hidden=(16,)), (5, 7)),
    "10 weights": (MLP(outputs=2, hidden=(2,)), (5, 1)),
    "cnn": (CNN(outputs=3, channels=(4,), kernel=3, padding=(1,)), (5, 8, 8, 2)),
    "resnet": (ResNet(outputs=3, channels=(4, 8)), (5, 8, 8, 1)),
    "lstm": (RNN(outputs=3, hidden=(8,)), (5, 6, 4)),
}
LARGE = {
    "200 layers": (MLP(outputs=3, hidden=(16,) * 199), (5, 16)),
    "12 million weights": (MLP(outputs=10, hidden=(2048,) * 3), (64, 784)),
}


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS),
        pytest.param("200 layers", marks=pytest.mark.nightly),
        pytest.param("12 million weights", marks=pytest.mark.nightly),
    ],
)
def test_a_gradient_costs_at_most_four_forward_passes(name):
    """Without the first layer's dx, which the compiler removes, it is three."""
    config, shape = (MODELS | LARGE)[name]
    model = config.build()
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    state = jax.eval_shape(lambda: model.init_state(x))
    y = jax.eval_shape(lambda p, x, s: model.forward(p, x, jaxbp.Context(state=s))[0], params, x, state)
    batch = {"x": x, "y": jax.ShapeDtypeStruct(y.shape[:-1], jnp.int32)}
    gradient = jaxbp.value_and_grad(model, SoftmaxCrossEntropy())
    whole = lambda p, b, s: gradient(p, b, jaxbp.Context(jax.random.key(0), s))
    forward = operations(lambda *a: whole(*a).value, params, batch, state)
    assert 1 < operations(lambda *a: whole(*a).grads, params, batch, state) / forward <= 4


@pytest.mark.slow
def test_a_hessian_product_costs_at_most_three_and_a_half_gradients():
    """Twice is what forward mode adds to the gradient's own cost, and some for the curvature of the activations."""
    model = MLP(outputs=10, hidden=(64, 64), activation="tanh").build()
    x = jax.ShapeDtypeStruct((32, 128), jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    batch = {"x": x, "y": jax.ShapeDtypeStruct((32,), jnp.int32)}
    gradient = jaxbp.value_and_grad(model, SoftmaxCrossEntropy())
    one = operations(lambda *a: gradient(*a).grads, params, batch)
    assert 2 < operations(products.hessian(gradient), params, batch, params) / one <= 3.5


@pytest.mark.slow
def test_paths_grow_exponentially_and_a_pass_does_not():
    """The gradient of one output by one input is a sum over the paths between them: width^(depth - 1) of them.

    With weights of one and no activation it is their number. The pass back is a product a layer.
    """
    width = 3

    def back(depth, dy):
        model = jaxbp.Chain(tuple(jaxbp.Dense(width, bias=False, w_init="ones") for _ in range(depth)))
        x = jnp.ones((1, width))
        params = model.init(jax.random.key(0), x)
        return model.backward(params, model.forward(params, x, jaxbp.Context())[1], dy)[0]

    dy = jnp.eye(width)[:1]
    assert back(9, dy)[0, 0] == width**8
    counts = [operations(lambda dy, depth=depth: back(depth, dy), dy) for depth in (2, 4, 8)]
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
