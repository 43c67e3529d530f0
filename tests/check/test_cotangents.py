"""What a reverse rule owes to every cotangent: zeros, one output alone, zeros that are not formed, dtypes, integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_derivatives import SymbolicZero

import jaxbp
from jaxbp.check import check_function, check_layer

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))


def rule(backward, **settings):
    """(sin(x) y, x y) with a hand-written backward((x, y), (da, db))."""

    @jax.custom_vjp
    def function(x, y):
        return jnp.sin(x) * y, x * y

    def forward(x, y):
        x, y = (x.value, y.value) if settings else (x, y)
        return function(x, y), (x, y)

    function.defvjp(forward, backward, **settings)
    return function


def right(kept, dy):
    x, y = kept
    a, b = dy
    return a * jnp.cos(x) * y + b * y, a * jnp.sin(x) + b * x


def formed(dy):
    return [jnp.zeros_like(X) if isinstance(d, SymbolicZero) else d for d in dy]


def forgets_the_second_output(kept, dy):
    return (None, None) if isinstance(dy[0], SymbolicZero) else right(kept, formed(dy))


def divides(kept, dy):
    norm = jnp.sqrt(jnp.sum(dy[0] ** 2))
    return right(kept, (dy[0] / norm * norm, dy[1]))


def in_the_other_half(kept, dy):
    return right(kept, (jnp.where(jnp.any(dy[1] != 0), 1, 2) * dy[0], dy[1]))


RULES = {
    "right": (right, {}, {}),
    "right with symbolic zeros": (lambda kept, dy: right(kept, formed(dy)), {"symbolic_zeros": True}, {}),
    "adds a constant": (
        lambda kept, dy: tuple(g + 1e-13 for g in right(kept, dy)),
        {},
        {"zero cotangent": "a zero dy must give exactly zero; x has 1e-13; y has 1e-13"},
    ),
    "divides by dy": (
        divides,
        {},
        {
            "zero cotangent": "a zero dy must give exactly zero; x has nan",
            "each output alone": "largest error inf, at x",
        },
    ),
    "is another without the other output": (in_the_other_half, {}, {"each output alone": "one output at a time"}),
    "forgets an output": (
        forgets_the_second_output,
        {"symbolic_zeros": True},
        {"symbolic zeros of outputs": "neighbours are not used: largest error 1.0e+00, at x of output 1"},
    ),
}
FAST = ["right with symbolic zeros", "divides by dy"]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in RULES]
)
def test_laws_of_cotangents(name):
    backward, settings, broken = RULES[name]
    report = check_function(rule(backward, **settings), X, Y)
    assert all(leaf.passed for leaf in report.leaves)  # for a dense dy each of them is right
    texts = {finding.method: finding.text for finding in report.findings if finding.passed is False}
    assert texts.keys() == broken.keys()
    assert all(broken[method] in text for method, text in texts.items())
    methods = {finding.method for finding in report.findings}
    assert {"zero cotangent", "each output alone", "linear in dy"} <= methods
    assert ("symbolic zeros of leaves" in methods) == bool(settings)


@pytest.mark.slow
def test_a_rule_that_needs_all_its_arguments_perturbed_fails():
    def forward(x, y):
        kept = (x.value, y.value, x.perturbed and y.perturbed)
        return function(x.value, y.value), kept

    def backward(kept, dy):
        x, y, both = kept
        return (dy * y * (1 if both else 2), dy * x)

    function = jax.custom_vjp(lambda x, y: x * y)
    function.defvjp(forward, backward, symbolic_zeros=True)
    report = check_function(function, X, Y)
    assert [f.method for f in report.findings if f.passed is False] == ["symbolic zeros of leaves"]


@pytest.mark.slow
def test_wrong_leaves_are_not_asked_again():
    report = check_function(rule(lambda kept, dy: tuple(2 * g + 1 for g in right(kept, dy))), X, Y)
    assert [leaf.passed for leaf in report.leaves] == [False, False]
    assert not {"zero cotangent", "each output alone"} & {finding.method for finding in report.findings}


def test_a_function_without_a_rule_is_said():
    assert "-     custom rule: the function has none" in str(check_function(jnp.sin, X))
    assert "custom rule" not in str(check_function(rule(right), X, Y, reference=lambda x, y: (jnp.sin(x) * y, x * y)))


# Integers have no cotangent: None, float0 or anything else may come back.

INTEGER = {
    "None": lambda i: None,
    "float0": lambda i: np.zeros(i.shape, jax.dtypes.float0),
    "integer zeros": lambda i: jnp.zeros_like(i),
    "floating zeros": lambda i: jnp.zeros(i.shape),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", INTEGER)
def test_the_cotangent_of_an_integer(kind):
    function = jax.custom_vjp(lambda x, i: x * i)
    function.defvjp(lambda x, i: (x * i, i), lambda i, dy: (dy * i, INTEGER[kind](i)))
    assert check_function(function, X, np.arange(4)).passed


@pytest.mark.slow
def test_none_is_a_zero_gradient():
    function = jax.custom_vjp(lambda x, y: x * y)
    function.defvjp(lambda x, y: (x * y, y), lambda y, dy: (dy * y, None))
    report = check_function(function, X, Y)
    assert [leaf.passed for leaf in report.leaves] == [True, False]
    unused = jax.custom_vjp(lambda x, y: jnp.sin(x))
    unused.defvjp(lambda x, y: (jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x), None))
    assert check_function(unused, X, Y).passed


@pytest.mark.parametrize(
    ("backward", "words"),
    [
        (lambda y, dy: (dy.sum(), None), r"float64\[\] corresponding to an input of type float64\[3,4\]"),
        (lambda y, dy: dy * y, "must produce a tuple of length equal to the number of arguments"),
    ],
)
def test_a_cotangent_that_jax_refuses_is_one_line(backward, words):
    function = jax.custom_vjp(lambda x, y: x * y)
    function.defvjp(lambda x, y: (x * y, y), backward)
    with pytest.raises(jaxbp.InputError, match=words):
        check_function(function, X, Y)


# The dtype of what comes back.


def narrowed(kept, dy):
    return tuple(g.astype(jnp.float32) if g.dtype == jnp.bfloat16 else g for g in right(kept, dy))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backward", "text"),
    [(right, "has the dtype of its leaf"), (narrowed, "is float32 for x in bfloat16, float32 for y in bfloat16")],
)
def test_the_dtype_of_what_comes_back(backward, text):
    report = check_function(rule(backward), X, Y, level="full")
    (finding,) = (finding for finding in report.findings if finding.method == "dtype")
    assert text in finding.text
    assert report.passed == finding.passed == (backward is right)


@pytest.mark.slow
def test_a_layer_that_adds_a_constant_fails():
    class Constant(jaxbp.Dense):
        def backward(self, params, cache, dy):
            dx, grads = super().backward(params, cache, dy)
            return dx, grads | {"b": grads["b"] + 1e-13}

    report = check_layer(Constant(2), jaxbp.shaped(5, 3))
    assert [f.method for f in report.findings if f.passed is False] == ["zero cotangent"]
    assert check_layer(jaxbp.Dense(2), jaxbp.shaped(5, 3)).passed
