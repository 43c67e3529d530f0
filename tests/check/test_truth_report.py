"""What the report says: where autodiff is wrong, how many entries are, and that a failing diagnosis decides nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import InputError
from jaxbp.check import check_function, check_gradient, check_model, guard, judge
from jaxbp.check.__main__ import main
from jaxbp.check.diagnosis import simulation
from jaxbp.core import Layer

A = np.random.default_rng(0).normal(size=(4, 3))
square = lambda a: jnp.sum(a * a)


def at(index, change):
    """The gradient of the sum of squares with one entry changed, or none."""

    def gradient(a):
        g = 2 * np.asarray(a)
        g[index] += change
        return g

    return gradient


@pytest.mark.parametrize(("rows", "text"), [(1, "3 of 12 entries are wrong"), (4, "")])
def test_how_many_entries_are_wrong(rows, text):
    report = check_gradient(at(slice(rows), 0.1), square, A)
    assert report.leaves[0].wrong == 3 * rows
    assert text in str(report)
    assert ("entries are wrong" in str(report)) == bool(text)
    assert check_gradient(at(0, 0.0), square, A).leaves[0].wrong == 0


def test_one_entry_is_counted_as_one():
    assert "    1 of 12 entries of params is wrong" in str(check_gradient(at((2, 1), 1e-3), square, A))


@pytest.mark.parametrize("error", [InputError("no such batch"), TypeError("cannot reshape")])
@pytest.mark.parametrize(
    ("module", "part"),
    [(judge, "explain"), (judge, "first_wrong_step"), (simulation, "mutants")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_diagnosis_that_fails_does_not_decide(module, part, error, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(module, part, fail)
    with pytest.raises(type(error)):
        check_gradient(at(0, 0.1), square, A)
    monkeypatch.setattr(guard, "RAISES", False)
    report = check_gradient(at(0, 0.1), square, A)
    assert not report.passed
    assert report.leaves[0].verdict == "FAIL"
    assert f"diagnosis: it raised {type(error).__name__}: {error} (" in str(report)
    assert check_gradient(at(0, 0.0), square, A).passed


class Forgetful(jaxbp.Tanh):
    """Its backward passes the delta on as it is."""

    label = "tanh"

    def backward(self, params, y, dy):
        return dy, {}


@pytest.mark.slow
def test_a_diagnosis_that_fails_in_the_search_for_the_first_wrong_step_leaves_a_line(monkeypatch):
    def fail(problem, others):
        if others:  # only that search knows other layers' inputs
            raise TypeError("no such input")
        return ()

    monkeypatch.setattr(simulation, "_by_points", fail)
    monkeypatch.setattr(guard, "RAISES", False)
    model = jaxbp.Chain((jaxbp.Dense(3), Forgetful(), jaxbp.Dense(2)))
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct(A.shape, jnp.float32))
    report = check_model(model, jaxbp.SquaredError(), params, {"x": A, "y": A[:, :2], "weight": np.full(4, 0.25)})
    assert report.step.startswith("01_tanh: dx (")
    assert "diagnosis: it raised TypeError: no such input (" in str(report)


def test_the_operation_that_makes_autodiff_wrong_is_named_with_its_line():
    length = lambda a: jnp.linalg.norm(a) ** 2 + jnp.sum(a)
    report = check_gradient(lambda a: 2 * a + 1, length, np.zeros(3))
    assert report.verdict == "pass"
    text = (
        "autodiff of the loss is wrong here, and differences decide: params (3 of 3 entries); 'sqrt' in 'norm' (test_"
    )
    assert text in str(report)


def test_the_full_level_is_not_asked_where_autodiff_is_wrong():
    report = check_gradient(lambda a: 2 * a, lambda a: jnp.linalg.norm(a) ** 2, np.zeros(3), level="full")
    assert report.verdict == "pass"
    assert {f.method: f.passed for f in report.findings}["full level"] is None


@pytest.mark.slow
def test_a_large_leaf_is_judged_along_directions():
    x = np.random.default_rng(1).normal(size=(7, 500))
    loss = lambda w: jnp.sum(jnp.maximum(x @ w, 0) + jnp.log1p(jnp.exp(-jnp.abs(x @ w))))
    right = x.sum(0) / 2
    assert check_gradient(lambda w: right, loss, np.zeros(500)).passed
    assert not check_gradient(lambda w: jax.grad(loss)(w), loss, np.zeros(500)).passed
    assert not check_gradient(lambda w: right * (np.arange(500) != 77), loss, np.zeros(500)).passed


@pytest.mark.slow
def test_a_large_leaf_at_a_kink():
    loss = lambda a: jnp.sum(jnp.cos(jnp.arange(600.0)) * jax.nn.relu(a))
    ones = np.cos(np.arange(600.0))  # relu'(0) = 1
    for slopes, right in ((ones, True), (ones / 2, True), (ones * 2, False), (ones * (np.arange(600) != 1), False)):
        report = check_gradient(lambda a, slopes=slopes: slopes, loss, np.zeros(600))
        assert report.passed == right, str(report)


@pytest.mark.slow
def test_a_model_at_zero_where_its_own_forward_is_smooth():
    """The layer's forward is the stable softplus, which autodiff gets wrong at 0."""

    class Softplus(Layer):
        def forward(self, params, x, ctx):
            return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))), x

        def backward(self, params, x, dy):
            return dy * jax.nn.sigmoid(x), {}

    model = jaxbp.Chain((jaxbp.Dense(3), Softplus(), jaxbp.Dense(2)))
    x = A[:, :2]
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), jax.ShapeDtypeStruct(x.shape, x.dtype)))
    params["02_dense"]["w"] = params["02_dense"]["w"] + 1
    report = check_model(model, jaxbp.SquaredError(), params, {"x": x, "y": x, "weight": np.full(4, 0.25)})
    assert report.passed, str(report)


def test_a_masked_row_that_is_nan_in_both():
    masked = lambda a: jax.nn.softmax(jnp.where(jnp.arange(4)[:, None] == 1, -jnp.inf, a))
    assert check_function(masked, A, reference=masked).passed


def test_the_exit_status(tmp_path, capsys):
    (tmp_path / "code.py").write_text(
        "import jax.numpy as jnp, numpy as np\n"
        "loss = lambda a: jnp.sum(jnp.maximum(a, 0))\n"
        "zero = lambda a: 0 * a\n"
        "two = lambda a: 0 * a + 2\n"
        "example = lambda: (np.zeros(2),)\n"
    )
    run = lambda name: main(
        [f"--{k}={tmp_path}/code.py:{v}" for k, v in (("function", name), ("loss", "loss"), ("example", "example"))]
    )
    assert (run("zero"), run("two")) == (2, 1)
    assert "gradient check of <lambda>: not checked, 0 of 1 leaves right" in capsys.readouterr().out
