"""The diagnosis: a mistake that people make, in code that they write, has its cause named, with its line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import Cause, check_function, check_gradient
from jaxbp.check.diagnosis.flow import flow_of
from jaxbp.check.diagnosis.jaxprs import traced

rng = np.random.default_rng(3)
A, B, X = rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), rng.normal(size=(5, 4))
Y = rng.uniform(size=(5, 6))


def stop(z):
    return jax.lax.stop_gradient(z)


def sloped(function, slope):
    """function(z), whose derivative is slope(z)."""
    return lambda z: stop(function(z)) + stop(slope(z)) * (z - stop(z))


def causes(wrong, right, params, *batch):
    """The causes of every leaf that fails, in the report of the gradient of a wrong loss."""
    report = check_gradient(jax.grad(wrong), right, params, *batch)
    assert not report.passed
    assert not any("diagnosis failed" in cause.text for leaf in report.leaves for cause in leaf.causes)
    return {leaf.path: leaf.causes for leaf in report.leaves if not leaf.passed}


def names(found):
    """The causes of one leaf, as (cause, text)."""
    return {cause.cause for cause in found}


# Activations that are written out.

ACTIVATIONS = {
    "sigmoid": lambda z: 1 / (1 + jnp.exp(-z)),
    "sigmoid by e^z": lambda z: jnp.exp(z) / (jnp.exp(z) + 1),
    "tanh": lambda z: (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z)),
    "tanh by e^2z": lambda z: 1 - 2 / (jnp.exp(2 * z) + 1),
    "softplus": lambda z: jnp.log(1 + jnp.exp(z)),
    "swish": lambda z: z / (1 + jnp.exp(-z)),
    "GELU": lambda z: 0.5 * z * (1 + jnp.tanh(0.7978845608 * (z + 0.044715 * z**3))),
    "leaky ReLU": lambda z: jnp.where(z > 0, z, 0.1 * z),
    "ELU": lambda z: jnp.where(z > 0, z, jnp.exp(z) - 1),
    "softsign": lambda z: z / (1 + jnp.sqrt(z**2)),
}


def layer(activation):
    def loss(p, x, y):
        h = activation(x @ p["w"])
        return jnp.sum((h @ p["v"] - y) ** 2)

    return loss


PARAMS = {"w": A, "v": rng.normal(size=(6, 6))}


@pytest.mark.parametrize(
    "name", [name if name == "sigmoid" else pytest.param(name, marks=pytest.mark.slow) for name in ACTIVATIONS]
)
def test_a_derivative_left_out_of_a_written_out_activation(name):
    f = ACTIVATIONS[name]
    told = causes(layer(sloped(f, jnp.ones_like)), layer(f), PARAMS, X, Y)
    assert set(told) == {"w"}
    assert told["w"][0].cause is Cause.DERIVATIVE
    assert "test_diagnosis.py" in told["w"][0].text


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "GELU", "swish"])
@pytest.mark.slow
def test_a_derivative_at_the_output(name):
    f = ACTIVATIONS[name]
    at_output = lambda z: jax.vmap(jax.vmap(jax.grad(f)))(f(z))
    assert Cause.POINT in names(causes(layer(sloped(f, at_output)), layer(f), PARAMS, X, Y)["w"])


def test_the_formula_in_the_output_is_given_the_input():
    f = ACTIVATIONS["sigmoid"]
    told = causes(layer(sloped(f, lambda z: z * (1 - z))), layer(f), PARAMS, X, Y)["w"]
    assert told[0].cause is Cause.POINT
    assert "the slope y (1 - y), y the input" in told[0].text


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("sigmoid", lambda z, y: 1 - y**2),
        ("tanh", lambda z, y: y * (1 - y)),
        ("tanh", lambda z, y: 1 - y),
        ("softplus", lambda z, y: z > 0),
        ("leaky ReLU", lambda z, y: y > 0),
        ("sigmoid", lambda z, y: (y * (1 - y)) ** 2),
    ],
)
@pytest.mark.slow
def test_a_slope_of_another_function(name, slope):
    f = ACTIVATIONS[name]
    wrong = sloped(f, lambda z: 1.0 * slope(z, f(z)))
    assert Cause.SLOPE in names(causes(layer(wrong), layer(f), PARAMS, X, Y)["w"])


@pytest.mark.slow
def test_one_wrong_slope_in_every_layer_is_one_cause():
    """The line of the activation is the user's; the report says it once, with the leaves."""
    f = ACTIVATIONS["tanh"]

    def deep(g):
        return lambda p, x, y: jnp.sum((g(g(x @ p["w"]) @ p["v"]) - y) ** 2)

    wrong = deep(sloped(f, lambda z: 1 - f(z)))
    report = check_gradient(jax.grad(wrong), deep(f), PARAMS, X, Y)
    assert str(report).count("likely cause") == 1
    assert "v, w: likely cause: wrong activation derivative: the slope 1 - y" in str(report)


# Rows that are normalised.


def softmax(s):
    e = jnp.exp(s - jnp.max(s, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def layer_norm(z, mean=lambda a: a, var=lambda a: a, eps=1e-3, count=None):
    mu = mean(jnp.mean(z, -1, keepdims=True))
    square = jnp.sum((z - mu) ** 2, -1, keepdims=True) / z.shape[-1]
    return (z - mu) / jnp.sqrt(var(square) + eps)


def rms_norm(z, statistic=lambda a: a):
    return z / jnp.sqrt(statistic(jnp.mean(z**2, -1, keepdims=True)) + 1e-6)


def log_softmax(z, total=lambda a: a):
    return z - jnp.log(total(jnp.sum(jnp.exp(z), -1, keepdims=True)))


def by_diagonal(function):
    """The function, of whose Jacobian only the diagonal is used."""

    def slope(z):
        columns = jnp.eye(z.size).reshape(z.size, *z.shape)
        return jnp.stack([jnp.vdot(v, jax.jvp(function, (z,), (v,))[1]) for v in columns]).reshape(z.shape)

    return sloped(function, slope)


@pytest.mark.parametrize("function", [softmax, layer_norm, rms_norm, log_softmax])
@pytest.mark.slow
def test_only_the_diagonal(function):
    told = causes(layer(by_diagonal(function)), layer(function), PARAMS, X, Y)["w"]
    assert told[0].cause is Cause.JACOBIAN


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (layer_norm, {"mean": stop}),
        (layer_norm, {"var": stop}),
        (layer_norm, {"mean": stop, "var": stop}),
        (rms_norm, {"statistic": stop}),
        (log_softmax, {"total": stop}),
    ],
)
@pytest.mark.slow
def test_projections_left_out(function, wrong):
    told = causes(layer(lambda z: function(z, **wrong)), layer(function), PARAMS, X, Y)["w"]
    assert told[0].cause is Cause.PATH
    if len(wrong) == 2:
        assert told[0].text.count("reduce_sum") == 2


@pytest.mark.slow
def test_an_epsilon_is_forgotten():
    wrong = lambda z: sloped(layer_norm, jnp.zeros_like)(z) + layer_norm(z, eps=0) - stop(layer_norm(z, eps=0))
    assert "epsilon" in causes(layer(wrong), layer(layer_norm), PARAMS, X, Y)["w"][0].text


@pytest.mark.slow
def test_a_temperature_is_forgotten():
    right = lambda z: softmax(z / 3)
    wrong = lambda z: stop(right(z)) + 3 * (right(z) - stop(right(z)))
    told = causes(layer(wrong), layer(right), PARAMS, X, Y)["w"]
    assert any("divisor is left out" in cause.text for cause in told)


# Products.


def gated(x, w, g):
    return x * w * jnp.tanh(g)


def with_rule(function, backward):
    ruled = jax.custom_vjp(function)
    ruled.defvjp(lambda *args: (function(*args), args), backward)
    return ruled


@pytest.mark.parametrize(
    ("backward", "leaf"),
    [
        (lambda c, dy: (dy * c[1] * jnp.tanh(c[2]), dy * c[0], dy * c[0] * c[1] / jnp.cosh(c[2]) ** 2), "w"),
        (lambda c, dy: (dy * jnp.tanh(c[2]), dy * c[0] * jnp.tanh(c[2]), dy * c[0] * c[1] / jnp.cosh(c[2]) ** 2), "x"),
    ],
)
def test_a_forgotten_gate(backward, leaf):
    report = check_function(with_rule(gated, backward), A, B, B + A)
    assert [failed.path for failed in report.leaves if not failed.passed] == [leaf]
    assert "is left out" in report[leaf].causes[0].text
    assert "(test_diagnosis.py:" in report[leaf].causes[0].text  # the user's line, never ours


@pytest.mark.slow
def test_the_scale_of_a_dropout_mask():
    mask = 2.0 * (rng.uniform(size=(5, 6)) < 0.5)
    right = lambda p, x, y: jnp.sum((mask * jnp.tanh(x @ p["w"]) @ p["v"] - y) ** 2)

    def wrong(p, x, y):
        h = jnp.tanh(x @ p["w"])
        return jnp.sum(((stop(mask * h) + (mask > 0) * (h - stop(h))) @ p["v"] - y) ** 2)

    assert "loses its scale" in causes(wrong, right, PARAMS, X, Y)["w"][0].text


@pytest.mark.slow
def test_a_mean_for_a_maximum():
    loss = lambda pool: lambda p, x: jnp.sum(pool(jnp.tanh(x @ p["w"])) ** 2)
    right = lambda z: jnp.max(z, 1)
    wrong = lambda z: stop(right(z)) + jnp.mean(z - stop(z), 1)
    told = causes(loss(wrong), loss(right), {"w": A}, X)["w"]
    assert told[0].cause is Cause.AXES
    assert "a mean's derivative stands for a maximum's" in told[0].text


def test_how_many_entries_are_wrong():
    loss = lambda w: jnp.sum(w**3)
    gradient = lambda w: (3 * w**2).at[1, 2].multiply(1.01)
    assert (
        check_gradient(gradient, loss, A)["params"].causes[0].text == "1 of 24 entries are wrong, the first at (1, 2)"
    )


def test_a_factor_that_may_be_several_things_is_one_line():
    loss = lambda w, x: jnp.sum((x @ w) ** 2) / 2
    gradient = lambda w, x: 4 * (x.T @ (x @ w))
    text = str(check_gradient(gradient, loss, A[:, :4], X[:4]))
    assert text.count("every entry is 4 times the true one") <= 2  # as a sum for a mean, as a factor


@pytest.mark.slow
def test_an_axis_of_one_entry_loses_no_step():
    told = causes(layer(lambda z: rms_norm(z, stop)), layer(rms_norm), PARAMS, X, Y)["w"]
    assert Cause.LAST_STEP not in names(told)


# Loops in Python, and what a line of them can get wrong in every run.

CELL = {"wx": rng.normal(size=(3, 4)), "wh": rng.normal(size=(4, 4)), "b": rng.normal(size=4)}
SEQUENCE = rng.normal(size=(4, 5, 3))


def recurrent(hand_on=lambda h: h, activation=jnp.tanh):
    def loss(p, x):
        h = jnp.zeros((5, 4))
        for x_t in x:
            h = activation(x_t @ p["wx"] + hand_on(h) @ p["wh"] + p["b"])
        return jnp.sum(h**2)

    return loss


@pytest.mark.parametrize("activation", [jnp.tanh, ACTIVATIONS["sigmoid"]])
@pytest.mark.slow
def test_a_delta_that_is_not_handed_on(activation):
    told = causes(recurrent(stop, activation), recurrent(activation=activation), CELL, SEQUENCE)
    assert set(told) == {"wx", "wh", "b"}
    assert all("not handed on" in found[0].text for found in told.values())


@pytest.mark.slow
def test_a_weight_that_is_counted_in_the_last_run_only():
    def gradient(p, x):
        h = jnp.zeros((5, 4))
        for x_t in x[:-1]:
            h = jnp.tanh(x_t @ p["wx"] + h @ p["wh"] + p["b"])
        final = lambda w: jnp.sum(jnp.tanh(x[-1] @ p["wx"] + h @ w + p["b"]) ** 2)
        return jax.grad(recurrent())(p, x) | {"wh": jax.grad(final)(p["wh"])}

    report = check_gradient(gradient, recurrent(), CELL, SEQUENCE)
    assert report["wh"].causes[0].cause is Cause.OVERWRITTEN


def net(p, x, y):
    return jnp.sum((jnp.tanh(x @ p["w"]) @ p["v"] - y) ** 2) / 2


def net_gradient(p, x, y, w=None, h=None):
    """The gradient of net; other weights on the way back, another activation in dv."""
    hidden = jnp.tanh(x @ p["w"])
    d = hidden @ p["v"] - y
    dv = (hidden if h is None else h(p, x)).T @ d
    back = p["v"] if w is None else w(p, dv)
    return {"v": dv, "w": x.T @ (d @ back.T * (1 - hidden**2))}


@pytest.mark.parametrize("rate", [0.1, 0.037, -0.5])
@pytest.mark.slow
def test_weights_that_were_already_stepped(rate):
    wrong = lambda p, x, y: net_gradient(p, x, y, w=lambda p, dv: p["v"] - rate * dv)
    report = check_gradient(wrong, net, PARAMS, X, Y)
    assert report["w"].causes[0].cause is Cause.STEPPED


@pytest.mark.slow
def test_a_value_in_place_of_the_activation():
    wrong = lambda p, x, y: net_gradient(p, x, y, h=lambda p, x: x @ p["w"])
    report = check_gradient(wrong, net, PARAMS, X, Y)
    assert report["v"].causes[0].cause is Cause.OPERAND
    assert "'dot_general' (test_diagnosis.py:" in report["v"].causes[0].text


@pytest.mark.slow
def test_a_matrix_product_for_one_by_entries():
    square = {"w": rng.normal(size=(4, 6)), "v": rng.normal(size=(6, 2))}
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))

    def wrong(p, x, y):
        hidden = jnp.tanh(x @ p["w"])
        d = hidden @ p["v"] - y
        return {"v": hidden.T @ d, "w": x.T @ (d @ p["v"].T @ (1 - hidden**2))}

    assert "a matrix product" in check_gradient(wrong, net, square, x, y)["w"].causes[0].text


IMAGE = rng.normal(size=(6, 6))


def windows(image, stride=1):
    starts = [(i, j) for i in range(0, 5, stride) for j in range(0, 5, stride)]
    return [image[i : i + 2, j : j + 2] for i, j in starts], starts


@pytest.mark.slow
def test_overlapping_windows_that_are_assigned():
    loss = lambda image: sum(jnp.max(patch) ** 2 for patch in windows(image)[0])

    def gradient(image):
        d = jnp.zeros_like(image)
        for patch, (i, j) in zip(*windows(image), strict=True):
            d = d.at[i : i + 2, j : j + 2].set((patch == patch.max()) * 2 * patch.max())
        return d

    report = check_gradient(gradient, loss, IMAGE)
    assert report["params"].causes[0].cause is Cause.OVERWRITTEN
    assert "windows overlap" in report["params"].causes[0].text


@pytest.mark.slow
def test_a_stride_that_is_forgotten():
    loss = lambda image: sum(jnp.sum(jnp.tanh(patch)) ** 2 for patch in windows(image, 2)[0])

    def gradient(image):
        d = jnp.zeros_like(image)
        for patch, (i, j) in zip(*windows(image, 2), strict=True):
            place = (slice(i // 2, i // 2 + 2), slice(j // 2, j // 2 + 2))
            d = d.at[place].add(2 * jnp.sum(jnp.tanh(patch)) * (1 - jnp.tanh(patch) ** 2))
        return d

    assert "stride" in check_gradient(gradient, loss, IMAGE)["params"].causes[0].text


@pytest.mark.slow
def test_gates_that_take_each_others_place():
    def gates(a, first=slice(0, 2), second=slice(2, 4)):
        return jnp.sum(jnp.tanh(a[:, first]) / (2 + jnp.sin(a[:, second])))

    def gradient(a):
        right = jax.grad(gates)(a)
        return jnp.concatenate([right[:, 2:4], right[:, :2]], 1)

    loss = lambda p, x: gates(x @ p["w"])
    wrong = lambda p, x: {"w": x.T @ gradient(x @ p["w"])}
    report = check_gradient(wrong, loss, {"w": A[:, :4]}, X)
    assert Cause.ORDER in names(report["w"].causes)


# What the pieces are made of.


def test_a_piece_is_found_whatever_stands_around_it(float64):
    function = lambda p: jnp.sum(layer(ACTIVATIONS["swish"])(p, X, Y) + layer(softmax)(p, X, Y))
    flow = flow_of(traced(function, {k: jnp.asarray(a) for k, a in PARAMS.items()})[0])
    kinds = {piece.kind for piece in flow.pieces}
    assert {"neg exp add div", "reduce_max sub exp reduce_sum div"} <= kinds
