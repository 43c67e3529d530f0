"""What a gradient costs, in operations of the program before it is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxbp
from bench import costs
from bench.costs import operations
from jaxbp import credit, optim
from jaxbp.analysis import exact_hessian, products
from jaxbp.losses import SoftmaxCrossEntropy, SquaredError
from jaxbp.models import CNN, MLP, RNN, ResNet
from tests.support import conformance

DECOMPOSITIONS = (jaxbp.Spectral, jaxbp.Eigh, jaxbp.Svd)  # the library's own operations are not counted
FIRST_OF_CLASS = {type(case.layer): case for case in reversed(conformance.all_cases())}.values()
COUNTED = [case for case in FIRST_OF_CLASS if not isinstance(case.layer, (*DECOMPOSITIONS, jaxbp.BlackBox))]


def size(*trees):
    return sum(a.size for a in jax.tree.leaves(trees))


@pytest.mark.nightly
@pytest.mark.parametrize("case", COUNTED, ids=str)
def test_forward_and_backward_of_a_layer_cost_at_most_four_forward_passes(float64, case):
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
    dy = jnp.eye(width)[:1]
    assert costs.back(9, width, dy)[0, 0] == width**8
    counts = [operations(lambda dy, depth=depth: costs.back(depth, width, dy), dy) for depth in (2, 4, 8)]
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])


@pytest.mark.slow
def test_learning_in_real_time_costs_the_fourth_power_of_the_units_and_through_time_the_square():
    """Each of n^2 weights has an influence on n units, and every step moves it through n x n weights."""

    def cost(rule, units):
        net = jaxbp.Recurrent(jaxbp.SimpleCell(units), output="last")
        x = jax.ShapeDtypeStruct((1, 4, 1), jnp.float32)
        params = jax.eval_shape(lambda key: net.init(key, x), jax.random.key(0))
        batch = {"x": x, "y": jax.ShapeDtypeStruct((1, units), jnp.float32)}
        ctx = credit.carrying(jaxbp.Context(), {})
        return operations(lambda p, b: rule.gradient(net, SquaredError())(p, b, ctx).grads, params, batch)

    ratio = lambda rule: cost(rule, 128) / cost(rule, 64)
    assert 15 < ratio(credit.RealTime()) <= 16
    assert 3.75 < ratio(credit.Backpropagation()) <= 4


@pytest.mark.slow
def test_differences_take_a_forward_pass_for_every_weight():
    model, shapes, _ = costs.net(3, 2)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    params, batch = model.init(jax.random.key(1), x), jaxbp.batch(x, jnp.zeros(5, jnp.int32))
    gradient = jaxbp.value_and_grad(model, SoftmaxCrossEntropy())
    differences = costs.by_moving(gradient)
    loops = [e for e in jax.make_jaxpr(differences)(params, batch).eqns if e.primitive.name == "scan"]
    assert [loop.params["length"] for loop in loops] == [costs.weights(shapes)] == [8]
    np.testing.assert_allclose(
        differences(params, batch), ravel_pytree(gradient(params, batch).grads)[0], rtol=2e-2, atol=1e-3
    )


@pytest.mark.slow
def test_errors_of_differences_fall_with_the_step_and_its_square_down_to_rounding():
    errors = costs.difference_errors([1e-2, 1e-3, 1e-5, 1e-8, 1e-13])
    forward, central = (np.array(errors[name][1]) for name in ("forward", "central"))
    np.testing.assert_allclose(forward[0] / forward[1], 10, rtol=0.05)
    np.testing.assert_allclose(central[0] / central[1], 100, rtol=0.05)
    assert central[2] < 1e-9 < forward[2]  # near the best step of each, eps^(1/3) and eps^(1/2)
    assert forward[3] < 1e-6
    assert min(forward[4], central[4]) > 1e-5


@pytest.mark.slow
def test_the_jacobian_of_least_squares_costs_less_than_the_hessian():
    """The Jacobian takes a reverse sweep an output; the Hessian a product a weight, each of some gradients."""
    matrices = costs.curvature_matrices()
    (counts, jacobian), (_, hessian) = matrices.values()
    assert max(jacobian) < 2
    assert all(count < ratio < 3.5 * count for count, ratio in zip(counts, hessian, strict=True))


@pytest.mark.slow
def test_the_stagewise_hessian_costs_no_more_than_gauss_newton_by_its_jacobian():
    """0.39 of it for 50 rows; jax.hessian takes 0.69. Operations of a loop's body count once."""
    model = jaxbp.Chain(jaxbp.Dense(16), jaxbp.Tanh(), jaxbp.Dense(4))
    x, y, weight = (jax.ShapeDtypeStruct((50, *width), jnp.float32) for width in ((8,), (4,), ()))
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    batch = {"x": x, "y": y, "weight": weight}

    def gauss_newton(params, batch):
        theta, whole = ravel_pytree(params)
        j = jax.jacrev(lambda theta: model.forward(whole(theta), batch["x"])[0].ravel())(theta)
        return j.T @ j

    hessian = operations(exact_hessian.stagewise(model, SquaredError()), params, batch)
    assert hessian < 0.5 * operations(gauss_newton, params, batch)


def test_the_fisher_matrix_has_as_many_numbers_as_the_square_of_the_weights():
    model, shapes, _ = costs.net(4, 8, 4)
    carried = optim.natural_gradient(optim.Objective(model, SquaredError()), rate=0.1)
    count = costs.weights(shapes)
    assert costs.weights(jax.eval_shape(carried.init, shapes)) == count**2
    assert costs.fisher_numbers(4, 8, 4) == {
        "whole matrix": count**2,
        "one for each unit": 8 * 5**2 + 4 * 9**2,
        "Kronecker factors": 5**2 + 8**2 + 9**2 + 4**2,
        "gradient": count,
    }


def test_an_expression_of_the_derivative_swells_and_both_passes_do_not():
    """Each layer doubles the text of a net of two units, and that of its derivative more than doubles."""
    expressions, derivatives, passes = zip(*map(costs.swelling, (8, 9, 10)), strict=True)
    assert expressions[2] > 1.9 * expressions[1] > 3.6 * expressions[0]
    assert derivatives[2] > 2 * derivatives[1] > 4 * derivatives[0]
    assert derivatives[2] > 10 * expressions[2]
    assert passes[2] - passes[1] == passes[1] - passes[0]


def test_a_formed_jacobian_costs_as_many_gradients_as_there_are_outputs():
    """The Jacobian of 100 outputs in 1.6 million weights times a delta: 160 million products with sums. The product of
    delta and inputs that it comes to: 1.6 million."""
    outputs, inputs = 100, 16_000
    layer = jaxbp.Dense(outputs, bias=False)
    w, x, delta = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((outputs, inputs), (1, inputs), (1, outputs)))
    jacobian = jax.ShapeDtypeStruct((outputs, outputs * inputs), jnp.float32)
    assert operations(jnp.matmul, delta, jacobian) == 2 * 160_000_000
    assert operations(lambda w, x, delta: layer.backward({"w": w}, x, delta)[1], w, x, delta) == 2 * 1_600_000


PRIMITIVES = {  # function: (operations, calls of such as exp) for each number, and those of its tangent and its adjoint
    "exp": (jnp.exp, (0, 1), (1, 0)),  # one product with the value that is there
    "sin": (jnp.sin, (0, 1), (1, 0)),  # one product with the cosine that is kept
    "tanh": (jnp.tanh, (0, 1), (3, 0)),
    "1 / y": (lambda y: 1 / y, (1, 0), (2, 0)),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_tangent_and_an_adjoint_use_what_forward_has_computed(name):
    """However many operations exp takes on the processor, its derivative takes one product."""
    f, forward, derivative = PRIMITIVES[name]
    y = jnp.linspace(0.1, 1.0, 1000)

    def counts(f):
        cost = jax.jit(f).lower(y).cost_analysis()
        return tuple(cost.get(kind, 0) / len(y) for kind in ("flops", "transcendentals"))

    tangent = jax.linearize(f, y)[1]
    assert counts(f) == forward
    assert counts(tangent) == counts(jax.linear_transpose(tangent, y)) == derivative


@pytest.mark.parametrize("layer", [jaxbp.Tanh(), jaxbp.Sigmoid()], ids=str)
def test_the_slope_of_a_layer_is_made_of_its_output(layer):
    """Forward calls one exponential or hyperbolic tangent for each number, backward none."""
    y = jax.ShapeDtypeStruct((1000,), jnp.float32)
    calls = lambda f, *arguments: jax.jit(f).lower(*arguments).cost_analysis().get("transcendentals", 0)
    assert calls(lambda x: layer.forward({}, x)[0], y) == 1000
    assert calls(lambda y, dy: layer.backward({}, y, dy)[0], y, y) == 0
    assert operations(lambda y, dy: layer.backward({}, y, dy)[0], y, y) == 3000


def test_a_product_has_three_operations_in_its_tangent_and_two_in_its_adjoint():
    """dz = da b + a db, and back a delta times b and times a."""
    y = jax.ShapeDtypeStruct((1000,), jnp.float32)
    along = lambda a, b, da, db: jax.jvp(jnp.multiply, (a, b), (da, db))[1]
    back = lambda a, b, dz: jax.vjp(jnp.multiply, a, b)[1](dz)
    assert operations(jnp.multiply, y, y) == 1000
    assert operations(along, y, y, y, y) == 3000
    assert operations(back, y, y, y) == 2000


@pytest.mark.nightly
def test_ten_thousand_steps_of_time_fit_in_the_memory_of_some_hundreds():
    """With keep="sqrt" a hundred times the steps take 15 times the memory."""
    assert costs.through_time(10_000, "sqrt") < 20 * costs.through_time(100, "sqrt")
    assert 20 * costs.through_time(10_000, "sqrt") < costs.through_time(10_000, "all")
