"""Complex leaves and outputs, in JAX's convention: right rules pass, wrong ones are caught, a conjugate is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp.check import Cause, check_function, check_gradient, leaf_errors

rng = np.random.default_rng(0)
slow = pytest.mark.slow


def numbers(*shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


Z, W, X = numbers(3), numbers(4, 3), rng.normal(size=3)
FUNCTIONS = {
    "product": (lambda w, z: w @ z, (W, Z)),
    "elementwise": (lambda w, z: jnp.sum(w * z, 1), (W, Z)),
    "exponential": (lambda z: jnp.exp(0.5 * z), (Z,)),
    "square": (lambda z: z**2, (Z,)),
    "reciprocal": (lambda z: 1 / z, (Z,)),
    "squared modulus": (lambda z: jnp.abs(z) ** 2, (Z,)),
    "modulus": (lambda z: jnp.abs(z), (Z,)),
    "angle": (lambda z: jnp.angle(z), (Z,)),
    "times its conjugate's neighbour": (lambda z: z * jnp.roll(jnp.conj(z), 1), (Z,)),
    "real part of a product": (lambda w, z: jnp.real(w @ z), (W, Z)),
    "modrelu": (lambda z, b: jax.nn.relu(jnp.abs(z) + b) * z / jnp.abs(z), (Z, X)),
    "phase of a real number": (lambda x: jnp.exp(1j * x), (X,)),
    "Fourier transform": (lambda z: jnp.fft.fft(z), (Z,)),
}


def conjugate(vjp, dy):
    """The rule in the convention dL/dx + i dL/dy."""
    return tuple(jnp.conj(g) for g in vjp(jnp.conj(dy)))


MISTAKES = {
    "conjugate": conjugate,
    "half": lambda vjp, dy: tuple(g / 2 for g in vjp(dy)),
    "real part alone": lambda vjp, dy: tuple(jnp.real(g).astype(g.dtype) for g in vjp(dy)),
}


def ruled(forward, backward=lambda vjp, dy: vjp(dy)):
    function = jax.custom_vjp(forward)
    function.defvjp(
        lambda *args: (forward(*args), args), lambda args, dy: backward(lambda dy: jax.vjp(forward, *args)[1](dy), dy)
    )
    return function


FULLY = ("product", "modulus", "modrelu", "phase of a real number", "Fourier transform")  # real and complex, in and out
LEVELS = [*((name, "default") for name in FUNCTIONS), *((name, "full") for name in FULLY)]
AT_NIGHT = [(name, "full") for name in FUNCTIONS if name not in FULLY]


@slow
@pytest.mark.parametrize(
    ("name", "level"), [*LEVELS, *(pytest.param(*case, marks=pytest.mark.nightly) for case in AT_NIGHT)]
)
def test_a_right_rule_passes(name, level):
    forward, arguments = FUNCTIONS[name]
    report = check_function(ruled(forward), *arguments, level=level)
    assert report.passed, str(report)
    assert all(leaf.verdict == "pass" for leaf in report.leaves)


NAMES = {"conjugate": {Cause.CONJUGATE}, "half": {Cause.FACTOR, Cause.MEAN}}
PLANTED = [(name, mistake) for name in FUNCTIONS for mistake in MISTAKES]


@slow
@pytest.mark.parametrize(("name", "mistake"), PLANTED)
def test_a_wrong_rule_is_caught_in_its_leaves(name, mistake):
    forward, arguments = FUNCTIONS[name]
    with jax.enable_x64(True):
        y, vjp = jax.vjp(forward, *map(jnp.asarray, arguments))
        dy = jnp.asarray(rng.normal(size=y.shape), y.dtype) + (0.7j if jnp.iscomplexobj(y) else 0)
        pairs = list(zip(vjp(dy), MISTAKES[mistake](vjp, dy), strict=True))
    wrong = any(not np.allclose(*pair) for pair in pairs)
    report = check_function(ruled(forward, MISTAKES[mistake]), *arguments)
    assert report.passed == (not wrong), str(report)
    causes = {leaf.causes[0].cause for leaf in report.leaves if not leaf.passed}
    assert mistake not in NAMES or causes <= NAMES[mistake]


def layered(change):
    """w2 tanh(w1 z), with `change` of the rules of both products."""

    def backward(kept, dy):
        w1, w2, z = kept
        h = jnp.tanh(w1 @ z)
        dh = change("second", w2).T @ dy
        da = dh * change("slope", 1 - h**2)
        return jnp.outer(da, change("z", z)), jnp.outer(dy, change("h", h)), change("first", w1).T @ da

    function = jax.custom_vjp(lambda w1, w2, z: w2 @ jnp.tanh(w1 @ z))
    function.defvjp(lambda *args: (function(*args), args), backward)
    return function


@slow
@pytest.mark.parametrize(
    ("factor", "leaves"),
    [("none", []), ("z", ["w1"]), ("h", ["w2"]), ("first", ["z"]), ("slope", ["w1", "z"]), ("second", ["w1", "z"])],
)
def test_a_factor_conjugated_in_one_rule(factor, leaves):
    change = lambda name, a: jnp.conj(a) if name == factor else a
    report = check_function(layered(change), 0.4 * numbers(3, 3), numbers(2, 3), Z)
    wrong = [leaf for leaf in report.leaves if not leaf.passed]
    assert sorted({leaf.path.split(".")[0] for leaf in wrong}) == leaves
    assert all(leaf.causes[0].cause is Cause.CONJUGATE for leaf in wrong)


def test_leaves_of_a_complex_gradient():
    """L = sum |z x|^2: JAX's gradient by z is 2 conj(z x) x."""
    loss = lambda p, x: jnp.sum(jnp.abs(p["z"] * x) ** 2) + p["b"]
    right = lambda p, x: {"z": 2 * jnp.conj(p["z"] * x) * x, "b": 1.0}
    params = {"z": Z.astype(np.complex64), "b": 0.5}
    report = check_gradient(right, loss, params, X)
    assert {leaf.path: leaf.dtype for leaf in report.leaves} == {
        "b": "float",
        "z.real": "complex64",
        "z.imag": "complex64",
    }
    assert report.passed
    wrong = lambda p, x: right(p, x) | {"z": 2 * p["z"] * x * x}
    report = check_gradient(wrong, loss, params, X)
    assert [leaf.path for leaf in report.leaves if not leaf.passed] == ["z.imag"]
    assert report["z.imag"].causes[0].cause is Cause.CONJUGATE
    missing = check_gradient(lambda p, x: right(p, x) | {"z": None}, loss, params, X)
    assert [leaf.path for leaf in missing.leaves if not leaf.passed] == ["z.real", "z.imag"]


def test_numpy_code_of_complex_numbers():
    loss = lambda z, x: np.sum(np.abs(z * x) ** 2)
    assert check_gradient(lambda z, x: 2 * np.conj(z * x) * x, loss, Z, X).passed
    report = check_gradient(lambda z, x: 2 * z * x * x, loss, Z, X)
    assert {leaf.path: leaf.passed for leaf in report.leaves} == {"params.real": True, "params.imag": False}
    assert report["params.imag"].causes[0].cause is Cause.CONJUGATE


@slow
def test_a_sign_is_no_conjugate():
    loss = lambda z: jnp.sum(jnp.abs(z) ** 2)
    report = check_gradient(lambda z: -2 * jnp.conj(z), loss, Z)
    assert {leaf.causes[0].cause for leaf in report.leaves} == {Cause.SIGN}


@slow
def test_a_complex_number_in_a_real_loss_and_a_complex_leaf_in_forward_mode():
    function = jax.custom_jvp(lambda z, x: jnp.abs(z) * x)
    function.defjvp(
        lambda p, t: (
            jnp.abs(p[0]) * p[1],
            jnp.real(jnp.conj(p[0]) * t[0]) / jnp.abs(p[0]) * p[1] + jnp.abs(p[0]) * t[1],
        )
    )
    report = check_function(function, Z, X)
    assert report.passed
    assert {"forward mode", "transpose"} <= {finding.method for finding in report.findings}
    assert check_gradient(lambda x, c: jnp.abs(c) ** 2, lambda x, c: x * jnp.abs(c) ** 2, 0.3, 1 + 2j).passed


@pytest.mark.parametrize(
    ("gradient", "loss", "point", "words"),
    [
        (lambda x: x * 1j, lambda x: jnp.sum(x), X, "returned complex numbers for the real leaf 'params'"),
        (lambda z: z, lambda z: jnp.sum(z), Z, r"must be a scalar of a floating type: .* \(\) of complex128"),
    ],
)
def test_what_has_no_gradient_is_refused(gradient, loss, point, words):
    with pytest.raises(jaxbp.InputError, match=words):
        check_gradient(gradient, loss, point)


def test_the_error_of_complex_trees():
    errors = leaf_errors({"z": Z + 1e-3j}, {"z": Z})
    assert errors["z"] == pytest.approx(1e-3 / np.max(np.abs(Z)))
