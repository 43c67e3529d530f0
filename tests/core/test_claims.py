"""What is said of backpropagation and of descent, each on the smallest net that shows it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import jaxbp
from jaxbp import AveragePool, Chain, Context, Conv, Dense, Sigmoid, SquaredError, Step, Tanh
from jaxbp.scalar import Value

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]
BOWL = np.array([1.0, 100.0])  # the curvatures of a quadratic with a long valley


def draw(*shape):
    """Normal numbers, the same ones for the same shape."""
    return np.random.default_rng(shape).normal(size=shape)


def batch_of(inputs, outputs, rows=1):
    """Random rows."""
    return jaxbp.batch(jnp.asarray(draw(rows, inputs)), jnp.asarray(draw(rows, outputs)))


def in_float64(model, spec):
    """Initial parameters as float64."""
    params = model.init(jax.random.key(0), spec)
    return jax.tree.map(lambda p: p.astype(jnp.float64), params)


def test_a_delta_is_what_a_small_shift_of_its_sum_changes():
    """Nielsen's demon: C(z_j + h) - C(z_j) = delta_j h, up to h^2, for each neuron of the hidden layer."""
    batch = batch_of(3, 2)
    last = Chain(Tanh(), Dense(2), Sigmoid())
    z = jnp.asarray(draw(1, 4))
    params = in_float64(last, z)
    cost = lambda z: float(jnp.sum((last.forward(params, z, Context())[0] - batch["y"]) ** 2) / 2)
    output, cache = last.forward(params, z, Context())
    delta = np.asarray(last.backward(params, cache, output - batch["y"])[0])[0]
    for j, unit in enumerate(np.eye(4)):
        rests = [abs(cost(z + h * unit) - cost(z) - h * delta[j]) for h in (1e-2, 1e-3)]
        assert rests[1] < 2e-2 * rests[0] < 1e-4


def test_logistic_regression_by_the_chain_rule_and_directly():
    """dC/da da/dz with da/dz = a (1 - a), and C = ln(1 + e^z) - t z differentiated at once: x (a - t) both times."""
    x, t, w = draw(5, 3), np.array([[0.0], [1], [1], [0], [1]]), draw(1, 3)
    a = 1 / (1 + np.exp(-x @ w.T))
    by_chain = (((a - t) / (a * (1 - a))) * (a * (1 - a))).T @ x / 5
    directly = (a - t).T @ x / 5
    batch = jaxbp.batch(jnp.asarray(x), jnp.asarray(t))
    params = {"w": jnp.asarray(w), "b": jnp.zeros(1)}
    ours = jaxbp.value_and_grad(Dense(1), jaxbp.BinaryCrossEntropy())(params, batch).grads
    np.testing.assert_allclose(by_chain, directly, rtol=1e-12)
    np.testing.assert_allclose(ours["w"], directly, rtol=1e-12)
    np.testing.assert_allclose(ours["b"], (a - t).mean(0), rtol=1e-12)


def test_the_slope_of_the_sigmoid_is_that_of_the_quotient_rule_and_at_most_a_quarter():
    """sigma' = e^-z / (1 + e^-z)^2 = sigma (1 - sigma), and tanh z = 2 sigma(2 z) - 1."""
    z = jnp.linspace(-40.0, 40.0, 801)
    y, cache = Sigmoid().forward({}, z, Context())
    slope = Sigmoid().backward({}, cache, jnp.ones(801))[0]
    quotient = np.exp(-z) / (1 + np.exp(-z)) ** 2
    np.testing.assert_allclose(slope, quotient, rtol=1e-12, atol=np.finfo(float).eps)
    assert slope[400] == max(slope) == 0.25
    np.testing.assert_allclose(Tanh().forward({}, z / 2, Context())[0], 2 * y - 1, atol=1e-15)


def test_a_saturated_output_learns_slowly_from_squared_error_and_not_from_cross_entropy():
    """Nielsen, chapter 3, with x = 1 and t = 0: dw = a a (1 - a) with half a square, and a with cross-entropy."""
    batch = jaxbp.batch(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    square = jaxbp.value_and_grad(Chain(Dense(1), Sigmoid()), SquaredError("half_sum"))
    entropy = jaxbp.value_and_grad(Dense(1), jaxbp.BinaryCrossEntropy())

    @jax.jit
    def both(w):
        unit = {"w": w, "b": jnp.zeros(1)}
        of_square = square({"00_dense": unit, "01_sigmoid": {}}, batch).grads["00_dense"]["w"]
        return of_square, entropy(unit, batch).grads["w"]

    for w, slow in ((5.0, 6.6e-3), (10.0, 4.5e-5), (20.0, 2.1e-9)):
        a = 1 / (1 + np.exp(-w))
        of_square, of_entropy = both(np.full((1, 1), w))
        np.testing.assert_allclose(of_square, a * a * (1 - a), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(of_square, slow, rtol=0.02)
        np.testing.assert_allclose(of_entropy, a, rtol=1e-12)


def test_a_steep_sigmoid_is_a_step():
    z = jnp.asarray([[-2.0, -0.5, 0.5, 2.0]])
    step = Step().forward({}, z, Context())[0]
    gaps = [jnp.max(jnp.abs(Sigmoid().forward({}, c * z, Context())[0] - step)) for c in (1, 10, 100)]
    assert gaps[2] < 1e-20 < gaps[1] < 0.01 < gaps[0]


@pytest.mark.parametrize("radius", [0.9, 1.1])
def test_a_delta_through_time_falls_or_grows_as_the_radius_to_the_steps(radius):
    steps = 40
    layer = jaxbp.Recurrent(jaxbp.SimpleCell(3, activation="identity"), output="last")
    x = jnp.asarray(draw(1, steps, 3))
    turn = np.linalg.qr(draw(3, 3))[0]
    params = in_float64(layer, x) | {"wh": jnp.asarray(radius * turn), "wx": jnp.eye(3)}
    cache = layer.forward(params, x, Context())[1]
    norms = jnp.linalg.norm(layer.backward(params, cache, jnp.ones((1, 3)))[0][0], axis=-1)
    np.testing.assert_allclose(norms, np.sqrt(3) * radius ** np.arange(steps)[::-1], rtol=1e-9)


def descend(rate, momentum, steps=300):
    """The value of the bowl after so many steps of jaxbp's descent."""
    optimizer = jaxbp.optim.SGD(learning_rate=rate, momentum=momentum).build(steps)
    p = jnp.ones(2)
    state = optimizer.init(p)
    values = []
    for _ in range(steps):
        updates, state = optimizer.update(jnp.asarray(BOWL) * p, state, p)
        p = p + updates
        values.append(float(jnp.sum(jnp.asarray(BOWL) * p**2) / 2))
    return np.array(values)


def test_small_steps_fall_at_every_step():
    values = descend(0.019, 0.0, 60)
    assert np.all(np.diff(values) < 0)


def test_momentum_needs_fewer_steps_in_a_long_valley():
    plain = descend(2 / (BOWL[0] + BOWL[1]), 0.0)
    root = np.sqrt(BOWL)
    heavy = descend(4 / (root[0] + root[1]) ** 2, ((root[1] - root[0]) / (root[1] + root[0])) ** 2)
    needed = lambda values: int(np.argmax(values < 0.01))
    assert 3 * needed(heavy) < needed(plain)


def test_ordered_derivatives_of_a_triangular_system():
    """Werbos: x_i = f_i(x_1 ... x_(i-1)), and F_i = dC/dx_i + sum of F_j df_j/dx_i over j > i, from the last back."""
    lower = np.tril(draw(5, 5), -1)
    x = [0.3]
    for i in range(1, 5):
        x.append(np.tanh(lower[i, :i] @ x[:i]))
    slope = lower * (1 - np.square(x))[:, None]
    ordered = np.zeros(5)
    for i in reversed(range(5)):
        ordered[i] = (i == 4) + ordered[i + 1 :] @ slope[i + 1 :, i]
    value = Value(0.3)
    nodes = [value]
    for i in range(1, 5):
        nodes.append(sum((float(lower[i, j]) * nodes[j] for j in range(i)), Value(0.0)).tanh())
    nodes[4].backward()
    np.testing.assert_allclose([node.gradient for node in nodes], ordered, rtol=1e-12)


def test_a_gaussians_negative_log_likelihood_is_squared_error():
    y, t = draw(2, 4, 2)
    likelihood = -np.sum(np.log(np.exp(-((y - t) ** 2) / 2) / np.sqrt(2 * np.pi)), axis=1)
    batch = jaxbp.batch(jnp.asarray(y), jnp.asarray(t))
    value = jaxbp.value_and_grad(jaxbp.Identity(), SquaredError("half_sum"))({}, batch).value
    np.testing.assert_allclose(value, np.mean(likelihood) - np.log(2 * np.pi), rtol=1e-12)


def test_the_receptive_field_of_a_unit_is_where_its_gradient_is_not_zero():
    """Each layer adds (window - 1) times the product of the strides before it: 1 + 4 + 1 + 2 x 2 = 10 pixels a side."""
    net = Chain(Conv(2, (5, 5), padding="VALID"), AveragePool((2, 2)), Conv(3, (3, 3), padding="VALID"))
    size, stride = 1, 1
    for layer in net.layers:
        pool = isinstance(layer, AveragePool)
        window, step = (layer.window[0], layer.steps[0]) if pool else (layer.kernel[0], layer.strides)
        size += (window - 1) * stride
        stride *= step
    x = jnp.asarray(draw(1, 16, 16, 1))
    params = in_float64(net, x)
    y, cache = net.forward(params, x, Context())
    unit = jnp.zeros_like(y).at[0, 1, 1, 0].set(1.0)
    rows, columns = (np.unique(indices) for indices in np.nonzero(net.backward(params, cache, unit)[0][0, ..., 0]))
    for seen in (rows, columns):
        np.testing.assert_array_equal(seen, stride + np.arange(size))


def test_random_fourier_features_estimate_the_kernel_of_their_spectral_density():
    """Rahimi and Recht 2007: E cos(w'x + b) cos(w'y + b) = exp(-|x - y|^2 / 2) / 2 for normal w and uniform b."""
    features, points = 100_000, draw(4, 3) / 2
    layer = Dense(features)
    params = {
        "w": jnp.asarray(draw(features, 3)),
        "b": jnp.asarray(2 * np.pi * np.random.default_rng(0).random(features)),
    }
    z = np.cos(np.asarray(layer.forward(params, jnp.asarray(points), Context())[0]))
    kernel = np.exp(-np.sum((points[:, None] - points) ** 2, -1) / 2)
    assert abs(2 * z @ z.T / features - kernel).max() < 4 / np.sqrt(features)


def test_a_graphs_matrix_of_neighbours_is_upper_triangular_in_the_order_of_its_nodes():
    """A_jk is 1 where k reads j; entry jk of (I - A)^-1 counts the paths from j to k, as a gradient of sums does."""
    names = "xabcd"
    matrix = np.array([[0, 1, 1, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    nodes = []
    for name, column in zip(names[1:], matrix.T[1:], strict=True):
        reads = tuple(names[j] for j in np.flatnonzero(column))
        nodes.append(jaxbp.Node(name, jaxbp.Add() if len(reads) > 1 else jaxbp.Identity(), reads))
    graph = jaxbp.Graph(tuple(nodes), ("x",))
    inputs = {node.name: node.inputs for node in graph.nodes}
    np.testing.assert_array_equal([[j in inputs.get(k, ()) for k in names] for j in names], matrix)
    with pytest.raises(jaxbp.InputError, match="unknown input of Graph node 'd': 'b'"):
        jaxbp.Graph(tuple(nodes[::-1]), ("x",))  # an entry below the diagonal
    params = graph.init(jax.random.key(0), jnp.ones((1, 1)))
    _, cache = graph.forward(params, jnp.ones((1, 1)), Context())
    dx, _ = graph.backward(params, cache, jnp.ones((1, 1)))
    assert dx[0, 0] == np.linalg.inv(np.eye(5) - matrix)[0, 4]


def test_a_unit_with_a_product_learns_xor_without_a_hidden_layer():
    """w = (1, 1, -2) of a, b and a b: the only answer."""
    bits = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    unit = jaxbp.SigmaPi(1, ((0,), (1,), (0, 1)))
    batch, gradient = jaxbp.batch(bits, jnp.array([[0.0], [1], [1], [0]])), jaxbp.value_and_grad(unit, SquaredError())
    step = lambda _, params: jax.tree.map(lambda w, g: w - g, params, gradient(params, batch).grads)
    params = jax.lax.fori_loop(0, 1000, step, {"w": jnp.zeros((1, 3)), "b": jnp.zeros(1)})
    np.testing.assert_allclose(params["w"], [[1, 1, -2]], atol=1e-5)
    np.testing.assert_allclose(params["b"], 0, atol=1e-5)


def test_nonlinear_conjugate_gradients_reach_the_minimum_in_as_many_steps_as_there_are_weights():
    """SciPy's rule of Polak and Ribiere, which only asks for values and gradients, on the quadratic of 8 weights."""
    x, y = draw(20, 8), draw(20, 1)
    batch = jaxbp.batch(jnp.asarray(x), jnp.asarray(y))
    gradient = jax.jit(jaxbp.value_and_grad(Dense(1, bias=False), SquaredError()))
    lowest = np.linalg.lstsq(x, y)[0][:, 0]
    errors = []

    def both(w):
        result = gradient({"w": w[None]}, batch)
        return float(result.value), np.asarray(result.grads["w"][0])

    keep = lambda w: errors.append(np.abs(w - lowest).max())
    options = {"maxiter": 8, "gtol": 1e-14, "c2": 0.01}  # c2: near the minimum along each line
    minimize(both, np.zeros(8), jac=True, method="CG", callback=keep, options=options)
    assert errors[7] < 1e-9 < 1e-6 < errors[6]


def test_a_large_net_on_few_noisy_points_first_learns_and_then_overfits():
    """15 points of a sine with noise, 1-30-1: the error on other points falls, then rises above twice its lowest."""
    random = np.random.default_rng(0)

    def sample(points):
        x = random.uniform(-3, 3, size=(points, 1))
        return jaxbp.batch(jnp.asarray(x), jnp.asarray(np.sin(x) + 0.3 * random.normal(size=x.shape)))

    training, validation = sample(15), sample(100)
    net, optimizer = Chain(Dense(30), Tanh(), Dense(1)), optax.adam(0.01)
    gradient = jaxbp.value_and_grad(net, SquaredError())
    params = {
        "00_dense": {"w": jnp.asarray(draw(30, 1)), "b": jnp.zeros(30)},
        "01_tanh": {},
        "02_dense": {"w": jnp.asarray(draw(1, 30)) / 5, "b": jnp.zeros(1)},
    }

    def step(carry, _):
        params, state = carry
        result = gradient(params, training)
        other = jnp.mean((net.forward(params, validation["x"])[0] - validation["y"]) ** 2)
        updates, state = optimizer.update(result.grads, state)
        return (optax.apply_updates(params, updates), state), (result.value, other)

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 15_000)[1])
    training_error, validation_error = run((params, optimizer.init(params)))
    best = int(jnp.argmin(validation_error))
    assert 50 < best < 5000
    assert validation_error[0] > 2 * validation_error[best]
    assert validation_error[-1] > 2 * validation_error[best]
    assert training_error[-1] < training_error[best] / 2


def test_symbolic_differentiation_gives_the_nine_derivatives_of_a_small_net():
    """SymPy differentiates the expression of the loss of a 2-2-1 net of sigmoids by each weight and bias."""
    sympy = pytest.importorskip("sympy")
    values, x, t = draw(9), draw(2), 0.3
    names = sympy.symbols("w:9")
    sigmoid = lambda z: 1 / (1 + sympy.exp(-z))
    hidden = [sigmoid(names[2 * j] * x[0] + names[2 * j + 1] * x[1] + names[4 + j]) for j in range(2)]
    loss = (sigmoid(names[6] * hidden[0] + names[7] * hidden[1] + names[8]) - t) ** 2 / 2
    place = dict(zip(names, values, strict=True))
    symbolic = [float(sympy.diff(loss, name).subs(place)) for name in names]
    params = {
        "00_dense": {"w": values[:4].reshape(2, 2), "b": values[4:6]},
        "01_sigmoid": {},
        "02_dense": {"w": values[None, 6:8], "b": values[8:]},
        "03_sigmoid": {},
    }
    net = Chain(Dense(2), Sigmoid(), Dense(1), Sigmoid())
    batch = jaxbp.batch(jnp.asarray(x[None]), jnp.array([[t]]))
    grads = jaxbp.value_and_grad(net, SquaredError("half_sum"))(params, batch).grads
    leaves = [grads[layer][leaf].ravel() for layer in ("00_dense", "02_dense") for leaf in ("w", "b")]
    np.testing.assert_allclose(np.concatenate(leaves), symbolic, rtol=1e-12)


def test_a_graph_of_layers_is_their_chain():
    layers = (Dense(4), Tanh(), Dense(2))
    chain = Chain(layers)
    names = ("00_dense", "01_tanh", "02_dense")
    graph = jaxbp.Graph(map(jaxbp.Node, names, layers, ("x", *names[:2])))
    batch = batch_of(3, 2, rows=5)
    params = dict(zip(names, ({"w": draw(4, 3), "b": draw(4)}, {}, {"w": draw(2, 4), "b": draw(2)}), strict=True))
    of_models = jax.jit(lambda p, b: [jaxbp.value_and_grad(m, SquaredError())(p, b) for m in (chain, graph)])
    results = of_models(params, batch)
    jax.tree.map(np.testing.assert_array_equal, *((result.value, result.grads) for result in results))
