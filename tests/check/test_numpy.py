"""NumPy functions get NumPy arrays of their own: they may write into them, and what they write is found and said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import Cause, check_function, check_gradient, guard
from jaxbp.check.diagnosis import simulation
from jaxbp.check.numpy_trace import traceable
from jaxbp.errors import InputError
from tests.support.marks import first_is_fast

rng = np.random.default_rng(0)
PARAMS, X = {"w": rng.normal(size=(3, 4))}, rng.normal(size=(5, 3))


def hidden(params, x):
    h = x @ params["w"]
    h[h < 0] = 0
    return h


def loss(params, x):
    return np.sum(hidden(params, x) ** 2)


def masked(params, x):
    z = x @ params["w"]
    dh = 2 * z
    dh[z <= 0] = 0
    return {"w": x.T @ dh}


def accumulated(params, x):
    dw = np.zeros_like(params["w"])
    for row in x:
        dw += np.outer(row, 2 * hidden(params, row[None])[0])
    return {"w": dw}


def by_out(params, x):
    z = np.empty((len(x), 4))
    np.matmul(x, params["w"], out=z)
    np.maximum(z, 0, out=z)
    return {"w": 2 * x.T.dot(z)}


def by_loops(params, x):
    dw = np.zeros((3, 4))
    h = hidden(params, x)
    for n, i, j in np.ndindex(5, 3, 4):
        dw[i, j] += 2 * x[n, i] * h[n, j]
    return {"w": dw}


def by_choice(params, x):
    """It asks values for their sign."""
    dw = np.zeros((3, 4))
    for row in x:
        for j, z in enumerate(row @ params["w"]):
            if z > 0:
                dw[:, j] += 2 * z * row
    return {"w": dw}


BUFFER = np.zeros((3, 4))


def in_a_buffer(params, x):
    """It gives the same array at every call."""
    BUFFER[:] = 2 * x.T @ hidden(params, x)
    return {"w": BUFFER}


def method_in_place(params, x):
    h = hidden(params, x)
    h.clip(0, None, out=h)
    flat = h.ravel()
    flat *= 2
    return {"w": x.T @ h}


RIGHT = [masked, accumulated, by_out, by_loops, by_choice, in_a_buffer, method_in_place]


@pytest.mark.parametrize("gradient", first_is_fast(RIGHT))
def test_numpy_code_that_writes_into_its_own_arrays(gradient):
    report = check_gradient(gradient, loss, PARAMS, X)
    assert report.passed, str(report)
    assert all(leaf.verdict == "pass" for leaf in report.leaves)
    assert not any(finding.method == "inputs unchanged" for finding in report.findings)
    wrong = lambda params, x: {"w": 1.01 * gradient(params, x)["w"]}
    assert [leaf.verdict for leaf in check_gradient(wrong, loss, PARAMS, X).leaves] == ["FAIL"]


def test_numpy_code_beside_a_jax_loss():
    value = lambda params, x: jnp.sum(jax.nn.relu(x @ params["w"]) ** 2)
    report = check_gradient(masked, value, PARAMS, X)
    assert report.passed
    assert report["w"].error < 1e-14


@pytest.mark.slow
def test_a_numpy_reference_that_writes():
    def reference(a):
        y = a * a
        y[a < 0] = 0
        return y

    function = jax.custom_vjp(lambda a: jnp.where(a < 0, 0, a * a))
    function.defvjp(lambda a: (function(a), a), lambda a, dy: (jnp.where(a < 0, 0, 2 * a * dy),))
    assert check_function(function, np.array([-1.0, 0.5, 2.0]), reference=reference).passed


# NumPy code that JAX can follow is differentiated exactly.

TARGETS = rng.integers(0, 4, 5)


def squashed(params, x):
    return np.mean(np.tanh(np.dot(x, params["w"])) ** 2)


def cross_entropy(params, x):
    z = np.matmul(x, params["w"])
    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    return -np.mean(np.log(e / np.sum(e, axis=1, keepdims=True))[np.arange(5), TARGETS])


def by_views(params, x):
    """Rows, columns and transposes share their memory with the array."""
    z = np.sin(x @ params["w"])
    z.T[0] *= 2
    z[1:3][0] = 0
    row = z[4]
    row += z[0]
    z.reshape(-1)[7] = 0.5
    first, *_ = z
    return np.sum(np.square(z)) + row.sum() + np.prod(first)


def by_functions(params, x):
    z = np.concatenate([x @ params["w"], np.ones_like(x)], axis=1)
    y = np.where(z > 0, z, 0.1 * z)
    np.add.at(y, (np.array([0, 0]),), 1.0)
    np.multiply(y, 2, out=y)
    return np.sum(np.clip(y, -1, 3)) + np.linalg.norm(y) + np.add.reduce(np.einsum("ij,ij->i", y, y))


def by_steps(params, x):
    h = np.zeros_like(params["w"][0])
    for row in x:
        h = np.tanh(row @ params["w"] + 0.5 * h[::-1])
    return h @ h


def by_numbers(params, x):
    """A number is no view: neither of the array that it was read from, nor of another name for it."""
    z = np.sin(x @ params["w"])
    corner = z[0, 0]
    z[0, 0] = 2.0
    total = np.sum(z)
    before = total
    total += corner
    corner *= 3
    return total * before + corner * z[0, 0]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def in_new_arrays(params, x):
    """A convolution by loops, in arrays that NumPy has made, with functions of the module and of its own."""

    def window(i):
        return x[i : i + 2] @ params["w"]

    y = np.zeros((4, 2, 4))
    for i in range(4):
        y[i] = sigmoid(window(i))
    best = np.full(4, -1.0)
    for i in range(4):
        best[i] = y[i].max()
    counts = np.zeros(4, int)
    counts[0] += 3
    return np.sum(y * best[:, None, None]) * counts[0]


FOLLOWED = [squashed, cross_entropy, by_views, by_functions, by_steps, by_numbers, in_new_arrays]


def slope(value):
    """The derivative by JAX: central differences are the other witness."""
    derivative = jax.grad(traceable(value))
    return lambda params, x: derivative(params, jnp.asarray(x))


@pytest.mark.parametrize("value", first_is_fast(FOLLOWED))
def test_numpy_code_is_followed(value):
    report = check_gradient(slope(value), value, PARAMS, X)
    assert report.passed, str(report)
    assert report["w"].error < 1e-14
    assert report["w"].difference_error < 1e-7


ASKS = {
    "a number": lambda params, x: float(np.sum(np.sin(x @ params["w"]))),
    "a branch": lambda params, x: np.sum(np.sin(x @ params["w"])) if np.all(x) else 0.0,
    "a branch on rows": lambda params, x: np.sum(np.sin(x @ params["w"])) if x[0, 0] > 0 or x[0, 0] < 1 else 0.0,
    "another array": lambda params, x: np.sum(np.sin(np.asarray(x) @ np.asarray(params["w"]))),
    "a list": lambda params, x: np.float64(sum(np.sin(x @ params["w"]).ravel().tolist())),
    "a function of its own": lambda params, x: np.sum(np.frompyfunc(np.sin, 1, 1)(x @ params["w"])) * 1.0,
}


@pytest.mark.parametrize("name", first_is_fast(ASKS))
def test_numpy_code_that_cannot_be_followed_is_differenced(name):
    report = check_gradient(lambda p, x: {"w": x.T @ np.cos(x @ p["w"])}, ASKS[name], PARAMS, X)
    assert report.passed
    assert np.isnan(report["w"].error)


def test_a_cause_in_numpy_code_is_named():
    wrong = lambda params, x: {"w": x.T @ (2 * np.tanh(x @ params["w"])) / 20}
    report = check_gradient(wrong, squashed, PARAMS, X)
    assert report["w"].causes[0].cause is Cause.DERIVATIVE


@pytest.mark.slow
def test_a_long_loop_is_not_followed():
    def value(params, x):
        total = np.sum(np.square(params["w"]))
        for _ in range(3000):
            total = total + np.sin(1.0)
        return total

    assert np.isnan(check_gradient(lambda p, x: {"w": 2 * p["w"]}, value, PARAMS, X)["w"].error)


# What a function writes into its arguments.


def stepped(params, x):
    dw = masked(params, x)["w"]
    params["w"] -= 0.1 * dw
    return {"w": dw}


def centred(params, x):
    x -= 0.1
    return masked(params, x + 0.1)


def sorted_in_place(params, x):
    x.sort(0)
    return {"w": 2 * x.T @ hidden(params, x)}


def nulled(params, x):
    dw = masked(params, x)["w"]
    x.fill(0)
    return {"w": dw}


def shuffled(params, x):
    np.random.default_rng(0).shuffle(x)
    return {"w": 2 * x.T @ hidden(params, x)}


CHANGED = {stepped: "params/w", centred: "x", sorted_in_place: "x", nulled: "x", shuffled: "x"}


@pytest.mark.parametrize("gradient", first_is_fast(CHANGED))
def test_a_gradient_that_changes_its_inputs(gradient):
    report = check_gradient(gradient, loss, PARAMS, X)
    if gradient is not sorted_in_place:
        assert [leaf.verdict for leaf in report.leaves] == ["pass"]
    assert not report.passed
    assert f"{gradient.__name__} changes {CHANGED[gradient]} in place" in str(report)


def test_a_loss_that_changes_its_inputs():
    def shifting(params, x):
        x -= 1.0
        return np.sum((x @ params["w"]) ** 2)

    report = check_gradient(lambda p, x: {"w": 2 * (x - 1).T @ ((x - 1) @ p["w"])}, shifting, PARAMS, X)
    assert [leaf.verdict for leaf in report.leaves] == ["pass"]
    assert "shifting changes x in place: the next call sees other numbers" in str(report)


def test_code_for_both_that_changes_numpy_arrays():
    """JAX traces it, and to JAX it changes nothing."""

    def gradient(params, x):
        x *= 2
        return {"w": 2 * (x / 2).T @ (x / 2 @ params["w"])}

    report = check_gradient(gradient, lambda params, x: jnp.sum((x @ params["w"]) ** 2), PARAMS, X)
    assert "gradient changes x in place" in str(report)
    assert not report.passed
    assert check_gradient(gradient, lambda params, x: jnp.sum((x @ params["w"]) ** 2), PARAMS, jnp.asarray(X)).passed


def test_arrays_of_its_own_may_be_written_to_in_jax_code():
    def gradient(params, x):
        total = jnp.zeros_like(params["w"])
        total += 2 * x.T @ (x @ params["w"])
        grads = {}
        grads["w"] = total
        return grads

    assert check_gradient(gradient, lambda params, x: jnp.sum((x @ params["w"]) ** 2), PARAMS, X).passed


# What is refused.

NARROW = {
    "a float32 number": lambda p, x: np.float32(loss(p, x)),
    "float32 throughout": lambda p, x: np.sum(np.maximum(x.astype(np.float32) @ p["w"].astype(np.float32), 0) ** 2),
    "a float16 number": lambda p, x: np.float16(loss(p, x)),
    "float32 without axes": lambda p, x: np.asarray(loss(p, x), np.float32),
    "JAX's float32 in NumPy code": lambda p, x: np.asarray(jnp.asarray(loss(p, x), jnp.float32)),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_loss_of_a_narrow_type_is_said_to_be_one(name):
    with pytest.raises(
        InputError, match=r"returned float(32|16) for float64 arguments: .* compute the loss in float64"
    ):
        check_gradient(masked, NARROW[name], PARAMS, X)


def test_errors_of_numpy_code_are_in_numpys_words():
    def wrong(params, x):
        x[:] = np.sum(x)
        return {"w": np.dot(x, np.ones(7))}

    with pytest.raises(InputError, match=r"wrong raised ValueError: shapes \(5,3\) and \(7,\) not aligned"):
        check_gradient(wrong, loss, PARAMS, X)


def test_what_jax_refuses_is_in_jaxs_words():
    with pytest.raises(InputError, match="raised TypeError: dot_general requires contracting dimensions"):
        check_gradient(masked, lambda params, x: jnp.sum(jnp.dot(x, params["w"].T)), PARAMS, X)


# The diagnosis never decides the outcome.

SIZED = {
    "a reshape": lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]).reshape(5, 2, 2).max(2)),
    "rows by number": lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])[jnp.arange(5), jnp.array([0, 1, 2, 3, 0])]),
    "a vector of weights": lambda p, x: jnp.sum(jnp.arange(1.0, 6.0) @ jnp.tanh(x @ p["w"])),
    "targets in a closure": lambda p, x: jnp.sum((jnp.tanh(x @ p["w"]) - X[:, :1]) ** 2),
    "NumPy code": lambda p, x: np.sum(np.tanh(x @ p["w"]).reshape(5, 2, 2).max(2)),
    "an assertion": lambda p, x: jnp.sum(jnp.tanh(x @ p["w"])) if len(x) == 5 else 1 / 0,
}


@pytest.mark.parametrize("name", first_is_fast(SIZED))
def test_a_loss_that_knows_its_batch_fails_and_no_more(name):
    report = check_gradient(lambda p, x: {"w": x.T @ np.ones((5, 4))}, SIZED[name], PARAMS, X)
    assert [leaf.verdict for leaf in report.leaves] == ["FAIL"]


@pytest.mark.parametrize("place", first_is_fast(["patterns", "predictions", "counts"]))
def test_an_exception_of_the_diagnosis_is_a_line(place, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("the first line\nthe second")

    if place == "patterns":
        monkeypatch.setattr("jaxbp.check.diagnosis.explain.patterns", broken)
    else:
        monkeypatch.setattr(simulation.Simulation, place, property(broken))
    check = lambda: check_gradient(
        lambda p, x: {"w": x.T @ x @ p["w"]}, lambda p, x: jnp.sum((x @ p["w"]) ** 2), PARAMS, X
    )
    with pytest.raises(ZeroDivisionError):
        check()
    monkeypatch.setattr(guard, "RAISES", False)
    report = check()
    assert [leaf.verdict for leaf in report.leaves] == ["FAIL"]
    assert "it raised ZeroDivisionError: the first line (test_numpy.py:" in str(report)
    assert str(report).count("ZeroDivisionError") == 1


def test_code_of_no_module_is_traced_too():
    """As a notebook's cell that is run by exec."""
    space = {"np": np}
    exec("def loss(w):\n    return np.sum(np.dot(w, w) ** 2)\ndef gradient(w):\n    return 4 * np.dot(w, w) * w", space)
    report = check_gradient(space["gradient"], space["loss"], np.arange(1.0, 4.0))
    assert report.passed
    assert np.isfinite(report["params"].error), str(report)
