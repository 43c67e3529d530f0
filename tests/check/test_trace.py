"""A check leaves no trace: the caller's arrays and functions are to JAX what they were before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.check import check_function, check_gradient
from tests.support.marks import first_is_fast

rng = np.random.default_rng(0)
WIDE = {
    "int64": rng.integers(1, 4, (5, 3)),
    "float64": rng.normal(size=(5, 3)),
    "float32": rng.normal(size=(5, 3)).astype(np.float32),
    "float16": rng.normal(size=(5, 3)).astype(np.float16),
    "int32": rng.integers(1, 4, (5, 3), np.int32),
    "int8": rng.integers(1, 4, (5, 3), np.int8),
    "uint64": rng.integers(1, 4, (5, 3), np.uint64),
    "bool": rng.normal(size=(5, 3)) > 0,
    "jax float32": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
    "jax bfloat16": jnp.asarray(rng.normal(size=(5, 3)), jnp.bfloat16),
    "jax int32": jnp.asarray(rng.integers(1, 4, (5, 3)), jnp.int32),
}
W = np.asarray([0.5, -1.0, 2.0], np.float32)


def seen(array):
    """What JAX makes of an array in a closure, as an argument, and as a value."""
    return (
        jax.jit(lambda: jax.lax.min(array, array))().dtype,
        jax.jit(lambda a: a)(array).dtype,
        jnp.asarray(array).dtype,
        jax.lax.max(array, array).dtype,
    )


@pytest.mark.parametrize("how", ["argument", "closure", "jitted closure"])
@pytest.mark.parametrize("name", first_is_fast(WIDE))
def test_the_callers_arrays_are_what_they_were(name, how):
    array = WIDE[name].copy()
    before = seen(array)
    value = lambda w, x: jnp.sum(jnp.where(jnp.asarray(x, w.dtype) > 0, x * w, w))
    slope = lambda w, x: jnp.sum(jnp.where(jnp.asarray(x, w.dtype) > 0, jnp.asarray(x, w.dtype), 1), 0)
    if how == "argument":
        assert check_gradient(slope, value, W, array).passed
    else:
        loss = (jax.jit if how == "jitted closure" else lambda f: f)(lambda w: value(w, array))
        loss(W)  # the caller's own trace, in float32
        assert check_gradient(lambda w: slope(w, array), loss, W).passed
        assert loss(W).dtype == jnp.float32
        assert jax.grad(loss)(W).dtype == jnp.float32
    assert seen(array) == before


def test_labels_that_index_run_as_before():
    labels, x = rng.integers(0, 4, 9), rng.normal(size=(9, 3)).astype(np.float32)
    params = {"w": rng.normal(size=(3, 4)).astype(np.float32)}
    loss = lambda p, x, t: -jnp.mean(jax.nn.log_softmax(x @ p["w"])[jnp.arange(len(t)), t])
    gradient = lambda p, x, t: {"w": x.T @ (jax.nn.softmax(x @ p["w"]) - jax.nn.one_hot(t, 4)) / len(t)}
    before = jax.grad(loss)(params, x, labels)["w"]
    assert check_gradient(gradient, loss, params, x, labels).passed
    np.testing.assert_array_equal(jax.grad(loss)(params, x, labels)["w"], before)


def test_a_float64_array_that_the_caller_has_traced_is_float64_in_the_check():
    x = rng.normal(size=3)
    loss = jax.jit(lambda w: jnp.sum(jnp.sin(w) * x))
    loss(W)
    assert check_gradient(lambda w: jnp.cos(w) * x, loss, W).passed
    function = jax.custom_vjp(lambda w: w * x)
    function.defvjp(lambda w: (w * x, None), lambda _, dy: (dy * x,))
    function(W)
    report = check_function(function, W)
    assert report.passed
    assert max(leaf.error for leaf in report.leaves) < 1e-15


def test_a_scan_over_the_callers_array_runs_as_before():
    steps = rng.integers(0, 3, 4)

    def step(carry, i):
        return carry + i * steps[0], None

    loss = lambda w: jnp.sum(w) * jax.lax.scan(step, 0, steps)[0]
    before = loss(W)
    assert check_gradient(lambda w: jnp.full_like(w, jax.lax.scan(step, 0, steps)[0]), loss, W).passed
    assert loss(W) == before


def test_settings_are_the_callers_again():
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion")
    before = [getattr(jax.config, name) for name in names]
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert check_gradient(lambda w: 2 * w, lambda w: jnp.sum(w**2), W).passed
    assert [getattr(jax.config, name) for name in names] == before


def test_random_numbers_go_on_as_without_a_check():
    np.random.seed(3)
    expected = np.random.rand(2)
    np.random.seed(3)
    check_gradient(lambda w: 2 * w, lambda w: np.sum(np.asarray(w) ** 2), W)
    np.testing.assert_array_equal(np.random.rand(2), expected)


def test_what_numpy_code_keeps_is_numpys():
    class Net:
        def loss(self, params, x):
            return np.sum(np.tanh(x @ params["w"]))

        def gradient(self, params, x):
            self.cache = np.tanh(x @ params["w"])
            return {"w": x.T @ (1 - self.cache**2)}

    net = Net()
    assert check_gradient(net.gradient, net.loss, {"w": rng.normal(size=(3, 2))}, rng.normal(size=(5, 3))).passed
    assert type(net.cache) is np.ndarray


@pytest.mark.parametrize("right", [True, False])
def test_no_argument_is_written_to(right):
    def gradient(params, x):
        x *= 1.5
        params["w"] -= 0.1
        params["b"] = 0
        return {"w": 2 * params["w"] if right else x}

    params, x = {"w": rng.normal(size=3)}, rng.normal(size=3)
    copies = params["w"].copy(), x.copy()
    check_gradient(gradient, lambda params, x: np.sum(np.asarray(params["w"]) ** 2), params, x)
    assert params.keys() == {"w"}
    np.testing.assert_array_equal(params["w"], copies[0])
    np.testing.assert_array_equal(x, copies[1])
