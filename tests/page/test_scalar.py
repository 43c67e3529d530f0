"""The scalar engine equals jax.grad, its paths add up to its gradient, and its drawings hold every number."""

import math
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.errors import InputError
from jaxbp.page.graph import dot, svg
from jaxbp.scalar import Value, paths


class Traced:
    """A JAX number with the methods of Value."""

    def __init__(self, data):
        self.data = data

    def of(name, function):
        unwrap = lambda value: value.data if isinstance(value, Traced) else value
        return lambda self, *others: Traced(function(self.data, *map(unwrap, others)))

    __add__ = __radd__ = of("+", lambda a, b: a + b)
    __mul__ = __rmul__ = of("*", lambda a, b: a * b)
    __sub__ = of("-", lambda a, b: a - b)
    __rsub__ = of("-", lambda a, b: b - a)
    __truediv__ = of("/", lambda a, b: a / b)
    __rtruediv__ = of("/", lambda a, b: b / a)
    __pow__ = of("^", lambda a, b: a**b)
    __rpow__ = of("^", lambda a, b: b**a)
    __neg__ = of("-", lambda a: -a)
    exp = of("exp", jnp.exp)
    log = of("log", jnp.log)
    tanh = of("tanh", jnp.tanh)
    relu = of("relu", jax.nn.relu)
    sigmoid = of("sigmoid", jax.nn.sigmoid)


def readme(a, b):
    """The expression of micrograd's README."""
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    return g


EXPRESSIONS = {
    "readme": (readme, (-4.0, 2.0)),
    "rational": (lambda a, b: (2 - a) / (b * b) - 3 / a + a**-2, (1.5, -0.7)),
    "powers": (lambda a, b: a**b + 2**a - b**3 + a**0.5 + a**1 + a**0, (1.3, 2.1)),
    "curves": (lambda a, b: (a * b).tanh() * (a - b).sigmoid() + (a.exp() + 1).log() * b.relu(), (0.4, 1.9)),
    "far out": (lambda a, b: a.sigmoid() * b, (-700.0, 3.0)),
    "at the kink": (lambda a, b: a.relu() * b + (a * b).relu(), (0.0, 3.0)),
    "used twice": (lambda a, b: (a * a + a * b) * (a * a), (3.0, -2.0)),
}


@pytest.fixture(scope="module")
def truths():
    """Value and gradient of every expression by jax.grad, from one program."""
    with jax.enable_x64(True):
        grads = lambda: {
            name: jax.value_and_grad(lambda a, b, f=f: f(Traced(a), Traced(b)).data, (0, 1))(*map(jnp.float64, at))
            for name, (f, at) in EXPRESSIONS.items()
        }
        return jax.device_get(jax.jit(grads)())


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_it_equals_jax_grad(name, truths):
    f, numbers = EXPRESSIONS[name]
    a, b = (Value(number, letter) for number, letter in zip(numbers, "ab", strict=True))
    result = f(a, b)
    result.backward()
    value, gradients = truths[name]
    np.testing.assert_allclose([result.data, a.gradient, b.gradient], [value, *gradients], rtol=1e-13)
    for start in (a, b):
        assert math.isclose(sum(product for _, product in paths(result, start)), start.gradient, rel_tol=1e-12)


def test_the_published_digits_of_micrograd():
    a, b = Value(-4.0), Value(2.0)
    g = readme(a, b)
    g.backward()
    assert [f"{number:.4f}" for number in (g.data, a.gradient, b.gradient)] == ["24.7041", "138.8338", "645.5773"]
    g.backward()
    assert f"{a.gradient:.4f}" == "138.8338"  # a second pass does not add to the first


def test_paths_double_where_the_pass_takes_two_more_edges():
    start = value = Value(1.0, "x")
    for doublings in range(1, 9):
        value = value + value
        value.backward()
        every = list(paths(value, start))
        assert len(every) == 2**doublings == start.gradient
        assert sum(len(node.edges) for node in value.order()) == 2 * doublings
        assert all(path[0] is start and path[-1] is value for path, _ in every)


def test_a_leaf_sends_nothing_and_a_long_chain_needs_no_recursion():
    leaf = Value(3.0)
    leaf.backward()
    assert (leaf.gradient, leaf.edges) == (1.0, ())
    value = leaf
    for _ in range(20_000):
        value = value + 1.0
    value.backward()
    assert leaf.gradient == 1.0


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda: Value(-1.0).log(), "log of -1 has no finite value or slope"),
        (lambda: Value(0.0) ** -1, r"\^-1 of 0"),
        (lambda: Value(-8.0) ** (1 / 3), r"\^0.333333 of -8"),
        (lambda: Value(1.0) / Value(0.0), "/ of 1, 0"),
        (lambda: Value(1e3).exp(), "exp of 1000"),
    ],
)
def test_what_has_no_slope_is_refused_in_one_line(compute, words):
    with pytest.raises(InputError, match=words) as error:
        compute()
    assert "\n" not in str(error.value)


def test_the_drawings_hold_every_number():
    x, w = Value(2.0, 'x" <script>'), Value(-3.0, "w")
    result = (w * x).sigmoid()
    result.backward()
    picture = svg(result)
    texts = [node.text for node in ElementTree.fromstring(picture).iter() if node.text and node.text.strip()]
    assert 'x" <script>' in texts
    assert [picture.count(f'stroke="{colour}"') for colour in ("blue", "red", "black")] == [2, 1, 1]
    assert "<script>" not in picture
    graph = dot(result)
    assert r'label="x\" <script>\nvalue 2\n' in graph
    for value in result.order():
        assert f"grad {value.gradient:.5g}" in texts
        assert f"value {value.data:.5g}\\ngrad {value.gradient:.5g}" in graph
        for operand, slope in value.edges:
            assert f"{slope:.5g}" in texts
            assert (
                f'{[*result.order()].index(operand)} -> {[*result.order()].index(value)} [label="{slope:.5g}"]' in graph
            )
