"""Jacobians by few calls, and nets that train through functions which can only be called."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbp
from jaxbp import structures
from jaxbp.sensing import Calls, directional, find, groups, places, sense

WIDTH = 200


@pytest.mark.parametrize(
    ("structure", "size", "count"),
    [
        (structures.Banded(1, 1), 30, 3),
        (structures.Banded(2, 1), 30, 4),
        (structures.BlockDiagonal(1), 7, 7),
        (structures.BlockDiagonal(5), 30, 6),
        (structures.Toeplitz(), 30, 2),
        (structures.Circulant(), 30, 1),
        (structures.Banded(0, 0), 30, 1),
        (structures.Symmetric(), 6, 6),
    ],
    ids=str,
)
def test_calls_that_a_structure_needs(structure, size, count):
    assert len(groups(structure, size, size)) == count
    check_that_a_linear_function_is_sensed_exactly(structure, size)


def check_that_a_linear_function_is_sensed_exactly(structure, size):
    """Whole numbers, so that nothing is rounded."""
    index, sign = structure.table(size, size)
    draw = np.random.default_rng(0)
    parameters = draw.integers(-9, 9, int(index[sign != 0].max()) + 1).astype(float)
    matrix = np.where(sign != 0, parameters[index * (sign != 0)] * sign, 0)
    f = Calls(lambda x: x @ matrix.T)
    x = draw.integers(-9, 9, (2, size)).astype(float)
    f(x)
    sensed = sense(f, x, structure, size, step=1.0)
    np.testing.assert_array_equal(sensed, np.stack([parameters] * 2))
    assert f.count == 1 + len(groups(structure, size, size))
    assert len(places(structure, size, size)) == len(parameters)


def test_a_symmetric_arrow_needs_two_calls_where_any_arrow_needs_as_many_as_columns():
    """Its long row is read from its long column."""

    class Arrow(structures.Table):
        def table(self, outputs, inputs):
            i, j = np.indices((outputs, inputs))
            return np.where(i == j, i, outputs + np.maximum(i, j)), ((i == j) | (i * j == 0)).astype(int)

    size = 20
    whole = np.argwhere(Arrow().table(size, size)[1])
    assert len(groups(structures.Sparse(tuple(map(tuple, whole.tolist()))), size, size)) == size
    assert len(groups(Arrow(), size, size)) == 2


def sparse_box(size, draw):
    """(f, its Jacobian): three entries in each row."""
    columns = np.stack([draw.choice(size, 3, replace=False) for _ in range(size)])
    matrix = np.zeros((size, size))
    np.put_along_axis(matrix, columns, draw.choice([-1, 1], (size, 3)) * draw.uniform(0.5, 2, (size, 3)), 1)
    return (lambda x: np.sin(x @ matrix.T)), matrix


@pytest.mark.parametrize(("calls", "noise"), [(None, 0.0), (30, 0.0), (36, 1e-7)])
def test_an_unknown_structure_is_found(calls, noise):
    """In fewer calls than columns too, and where each call answers with a little noise."""
    draw = np.random.default_rng(1)
    f, matrix = sparse_box(60, draw)
    box = Calls(lambda x: f(x) + noise * draw.normal(size=x.shape))
    x = 0.01 * draw.normal(size=60)
    structure = find(box, x, calls, smallest=1e-2, step=1e-3)
    assert set(structure.entries) == set(map(tuple, np.argwhere(matrix).tolist()))
    assert box.count == 2 * (calls or 60)
    slope = np.cos(x @ matrix.T)[:, None] * matrix
    sensed = sense(Calls(f), x[None], structure, 60, central=True)[0]
    np.testing.assert_allclose(sensed, slope[slope != 0], rtol=1e-7)


@pytest.mark.parametrize("noise", [1e-8, 1e-4])
def test_noise_of_a_box_passes_in_proportion_and_averages_out(noise):
    """Answers with noise of deviation s give entries with sqrt(2) s / h, and the mean of k Jacobians sqrt(k) less."""
    draw = np.random.default_rng(2)
    size, step = 200, 2.0**-6
    matrix = draw.normal(size=(size, size)) * (np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= 1)
    box = Calls(lambda x: x @ matrix.T + noise * draw.normal(size=(len(x), size)), keep=0)  # asks again every time
    rows, columns = np.nonzero(structures.Banded(1, 1).table(size, size)[1])
    x = draw.uniform(-1, 1, (1, size))
    index = structures.Banded(1, 1).table(size, size)[0][rows, columns]
    sensed = [sense(box, x, structures.Banded(1, 1), size, step=step)[0][index] for _ in range(16)]
    error = lambda jacobian: np.sqrt(np.mean((jacobian - matrix[rows, columns]) ** 2)) * step / noise
    assert error(sensed[0]) == pytest.approx(2**0.5, rel=0.1)
    assert error(np.mean(sensed, 0)) == pytest.approx(2**0.5 / 4, rel=0.1)


def test_calls_are_counted_and_remembered():
    f = Calls(lambda x: x**2, keep=2)
    x = np.arange(6.0).reshape(2, 3)
    for point in (x, x + 1, x, x + 2, x, x + 1):
        np.testing.assert_array_equal(f(point), point**2)
    assert (f.count, f.remembered) == (4, 2)
    np.testing.assert_allclose(directional(f, x, np.ones(3), central=True), 2 * x, rtol=1e-9)
    with pytest.raises(jaxbp.InputError, match=r"a black box must give 2 rows for 2 rows, got shape \[3\]"):
        Calls(lambda x: x[0])(x)


def test_a_function_may_write_into_its_argument_and_into_its_last_answer():
    answer = np.empty((2, 3))

    def square(x):
        x *= x
        answer[:] = x
        return answer

    x = np.arange(6.0).reshape(2, 3)
    before = x.copy()
    unit = np.ones(3)
    np.testing.assert_allclose(directional(Calls(square), x, unit, central=True), 2 * x, atol=1e-9)
    np.testing.assert_allclose(sense(Calls(square), x, structures.Banded(0, 0), 3), 2 * x, atol=1e-6)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(directional(lambda x: np.square(x, out=answer), x, unit, True), 2 * x, atol=1e-9)


def forward(width=5, features=5, structure=None, f=np.tanh, shape=(3,)):
    """Of a box, on ones."""
    return jaxbp.BlackBox(f, features, structure).forward({}, jnp.ones((*shape, width)), jaxbp.Context())


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"features": 4}, r"BlackBox: features is 4, but the function answers \[3, 5\]"),
        ({"f": lambda x: x[:2]}, r"a black box must give 3 rows for 3 rows, got shape \[2, 5\]"),
        ({"shape": (3, 2)}, r"BlackBox takes x \[N, I\], got \[3, 2, 5\]"),
        ({"features": 1.5}, "BlackBox: features must be a whole number, got 1.5"),
        ({"structure": structures.LowRank(1)}, r"BlackBox: structure must be a table .* got LowRank\(rank=1\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_boxes_that_are_refused_in_one_line(setting, text):
    with pytest.raises(jaxbp.InputError, match=text):
        forward(**setting)


def test_under_jit_the_error_ends_in_that_line_and_jax_logs_no_other(caplog):
    with pytest.raises(
        RuntimeError, match=r"(?m)^InputError: BlackBox: features is 4, but the function answers \[3, 5\]$"
    ):
        jax.block_until_ready(jax.jit(lambda: forward(features=4))())
    assert not caplog.records


def test_a_structure_that_does_not_fit_is_refused_before_any_call():
    with pytest.raises(jaxbp.InputError, match="BlockDiagonal: needs multiples of 3 blocks, got 5 outputs"):
        jaxbp.BlackBox(np.tanh, 5, structures.BlockDiagonal(3)).init(jax.random.key(0), jaxbp.shaped(3, 6))


def box(xp):
    """A chain in which every entry meets its neighbours, in NumPy or JAX."""

    def f(x):
        ends = xp.pad(x, ((0, 0), (1, 1)))
        return xp.tanh(x) + ends[:, :-2] * ends[:, 2:] / 4

    return f


@pytest.mark.slow
def test_a_net_with_a_box_in_its_middle_trains_as_through_autodiff():
    """200 inputs, three diagonals: at most 2 x 1 + 1 calls a step beside the one of the forward pass."""
    calls = Calls(box(np))
    steps = 30
    hidden = jaxbp.BlackBox(calls, WIDTH, structures.Banded(1, 1))
    model = jaxbp.Chain((jaxbp.Dense(WIDTH), hidden, jaxbp.Dense(2)))
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(32, 4)), jnp.float32)
    batch = jaxbp.batch(x, jnp.stack([jnp.sin(x[:, 0]), x[:, 1] * x[:, 2]], 1))
    params = model.init(jax.random.key(0), x)
    optimizer = optax.adam(1e-2)

    def autodiff(params):
        first, last = params["00_dense"], params["02_dense"]
        y = box(jnp)(x @ first["w"].T + first["b"]) @ last["w"].T + last["b"]
        return jnp.sum(jnp.sum((y - batch["y"]) ** 2, 1) * batch["weight"]) / 2

    def hand(params):
        result = jaxbp.value_and_grad(model, jaxbp.SquaredError())(params, batch)
        return result.value, result.grads

    def losses(gradient, params):
        state = optimizer.init(params)
        values = []

        @jax.jit
        def step(params, state):
            value, grads = gradient(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state, value

        for _ in range(steps):
            params, state, value = step(params, state)
            values.append(float(value))
        return values

    through_box = losses(hand, params)
    assert calls.count <= steps * (1 + 3)
    assert through_box[-1] < through_box[0] / 3
    np.testing.assert_allclose(through_box, losses(jax.value_and_grad(autodiff), params), rtol=1e-3)


@pytest.mark.slow
def test_a_box_at_the_tail_and_without_a_structure():
    """Its gradient is that of the same function in JAX, in forward mode too."""
    layer = jaxbp.BlackBox(box(np), 5)
    x = jax.random.normal(jax.random.key(0), (3, 5))
    dy = jax.random.normal(jax.random.key(1), (3, 5))
    value = jax.jit(lambda x: jnp.vdot(dy, jaxbp.as_function(layer)({}, x)))
    expected = jax.grad(lambda x: jnp.vdot(dy, box(jnp)(x)))(x)
    np.testing.assert_allclose(jax.grad(value)(x), expected, atol=1e-6)
    forward = lambda x: layer.forward({}, x, jaxbp.Context())[0]
    np.testing.assert_allclose(jnp.vdot(dy, jax.jvp(forward, (x,), (dy,))[1]), jnp.vdot(expected, dy), rtol=1e-5)


@pytest.mark.parametrize(
    ("f", "answer"), [(lambda x: x[:, 0], r"\[3\] of float64"), (lambda x: x * 1j, r"\[3, 2\] of complex128")]
)
def test_an_answer_of_another_kind_is_refused(f, answer):
    with pytest.raises(jaxbp.InputError, match=rf"got shape {answer}: it must be \[3, O\], of real numbers"):
        Calls(f)(np.ones((3, 2)))
